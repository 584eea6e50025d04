"""What tests of the console share: the application served in this process, and a real Chromium."""

import asyncio
import json
import re
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
from playwright.sync_api import Browser, Page, expect, sync_playwright

from services.console.server import serve
from stablerep.config.settings import ConsoleSettings, Settings
from tests.tools import tool

FLAGS = (
    "--no-sandbox",  # tests may run as root
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
)
START_SECONDS = 60.0


@contextmanager
def console_served(folder: Path, gateway: str, **more: Any) -> Iterator[str]:
    """Serves the console of the store in `folder` within the block; yields its http:// address."""
    announced = folder / "console.json"
    announced.unlink(missing_ok=True)
    own = ConsoleSettings(
        **{"address": "127.0.0.1:0", "announce": announced, "gateway": gateway, **more.pop("console", {})}
    )
    settings = Settings(store_url=(folder / "store").as_uri(), console=own, **more)
    ready: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()

    async def run() -> None:
        stop = asyncio.Event()
        ready.set_result((asyncio.get_running_loop(), stop))
        await serve(settings, stop)

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    loop, stop = ready.result(START_SECONDS)
    deadline = time.monotonic() + START_SECONDS
    while not announced.exists():
        assert thread.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    try:
        yield f"http://{json.loads(announced.read_text())['address']}{own.prefix}"
    finally:
        loop.call_soon_threadsafe(stop.set)
        thread.join(20)


@contextmanager
def chromium() -> Iterator[Browser]:
    """A headless browser that asks for nothing by itself."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=str(tool("chromium")), args=list(FLAGS))
        try:
            yield browser
        finally:
            browser.close()


@contextmanager
def watched(browser: Browser, *, at: str = "http://127.0.0.1", **context: Any) -> Iterator[Page]:
    """A page of which every error, refused resource and request to elsewhere than `at` fails the test."""
    problems: list[str] = []
    opened = browser.new_context(**context)
    page = opened.new_page()
    page.on("pageerror", lambda error: problems.append(f"script: {error}"))

    def on_dialog(dialog: Any) -> None:
        problems.append(f"dialog: {dialog.message}")
        dialog.dismiss()

    page.on("dialog", on_dialog)

    def on_console(message: Any) -> None:
        # A page that says what was wrong comes with the status of that; the browser calls it an error.
        if message.type == "error" and not re.search(r"status of [45]\d\d", message.text):
            problems.append(f"console: {message.text}")

    def on_request(request: Any) -> None:
        if not request.url.startswith((at, "data:", "about:")):
            problems.append(f"request: {request.url}")

    page.on("console", on_console)
    page.on("request", on_request)
    try:
        yield page
    finally:
        opened.close()
    assert not problems, problems


def csrf_of(client: httpx.Client, path: str) -> str:
    """The secret of the forms of a page."""
    text = client.get(path).text
    return text.split('name="csrf" value="')[1].split('"')[0]


def submit_and_look(page: Page, url: str, captions: Path, name: str, *, preset: str, seconds: float) -> None:
    """A job from a file to its end, watched, and its images, as a person does it who has signed in."""
    page.set_default_timeout(seconds * 1000)
    page.goto(f"{url}/submit")
    page.get_by_label("A file").set_input_files(captions)
    page.get_by_role("button", name="Look at the captions").click()
    page.get_by_label("Name of the dataset").fill(name)
    page.get_by_label("Preset").select_option(preset)
    page.get_by_role("button", name="Preview two groups").click()
    expect(page.locator("figure.group")).to_have_count(2, timeout=seconds * 1000)
    page.get_by_role("button", name="Start the job").click()
    page.wait_for_url(f"**/jobs/{name}")
    state = page.locator("section[aria-label=State] .state")
    expect(state).to_have_text("succeeded", timeout=seconds * 1000)  # by itself: the page is not loaded again
    page.goto(f"{url}/datasets/{name}")
    page.locator("a.strip").first.click()
    page.get_by_role("button", name="Make it again on a worker").click()
    expect(page.get_by_role("heading", level=1)).to_contain_text(
        "have the same bytes", timeout=seconds * 1000
    )
    expect(page.get_by_role("heading", level=1)).to_contain_text("All", timeout=seconds * 1000)
