"""The console in a real Chromium, over real services: from a file to images, runs, accessibility, faults."""

import json
import re
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect

from stablerep.client import Client
from stablerep.local.services import LocalServices, local_services
from stablerep.shards.layout import sweep_key
from stablerep.storage import open_store
from tests.consoles import chromium, submit_and_look, watched

pytestmark = pytest.mark.timeout(900)

MOST_BYTES = 300_000
WAIT = 120_000  # milliseconds, on a slow machine
HOSTILE = '<img src=x onerror="window.hacked=1"> "quoted" <b>bold</b>'
SETTINGS = "steps=20\nviews_per_batch=64\nlog_every=2\nmethod.images_per_caption=4\nencoder.image_size=28"


@dataclass(frozen=True)
class Site:
    url: str
    services: LocalServices
    folder: Path
    pictures: Path

    def picture(self, page: Page, name: str) -> None:
        page.screenshot(path=self.pictures / f"{name}.png", full_page=True)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """Real services of one machine, with two datasets of the same captions and a run."""
    folder = tmp_path_factory.mktemp("site")
    pictures = tmp_path_factory.mktemp("pictures")
    with local_services(folder, workers=1, trainers=1, console="127.0.0.1:0") as services:
        (folder / "captions.txt").write_text("".join(f"caption {n} of a {w} shoe\n" for n, w in captions()))
        with Client(services.address) as client:
            for name, quality in (("flat-a", 95), ("flat-b", 60)):
                recipe = {"jpeg_quality": quality}
                client.create_job(name, folder / "captions.txt", preset="flat", recipe=recipe)
            for name in ("flat-a", "flat-b"):
                assert [job.state.value for job in client.watch_job(name)][-1] == "SUCCEEDED"
        sweep = {"sweep": "guidance", "spec": {"title": "Guidance"}, "points": []}
        store = open_store(services.store_url)
        store.put(sweep_key("guidance", "json"), json.dumps(sweep).encode())
        store.put(sweep_key("guidance", "svg"), b'<svg xmlns="http://www.w3.org/2000/svg"/>')
        yield Site(f"http://{services.console}", services, folder, pictures)


def captions() -> list[tuple[int, str]]:
    return [(number, ("red", "blue", "green")[number % 3]) for number in range(100)]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as browser:
        yield browser


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    with watched(browser, viewport={"width": 1280, "height": 900}) as page:
        page.set_default_timeout(WAIT)
        expect.set_options(timeout=WAIT)
        yield page


def test_a_job_from_a_file_to_its_images_made_again(site: Site, page: Page) -> None:
    path = site.folder / "list <b>.tsv"
    path.write_text("id\tcaption\n" + "".join(f"{n}\t{HOSTILE} {n}\n" for n in range(30)) + "30\t\n")
    page.goto(site.url)
    page.get_by_role("link", name="Submit a job").click()
    page.get_by_label("A file").set_input_files(path)
    page.get_by_role("button", name="Look at the captions").click()
    expect(page.get_by_role("heading", name="What was understood")).to_be_visible()
    expect(page.get_by_text("captions in column caption, with a header")).to_be_visible()
    expect(page.get_by_text("1 that are empty")).to_be_visible()
    expect(page.locator("ol.captions li").first).to_have_text(f"{HOSTILE} 0")
    page.get_by_label("Name of the dataset").fill("made here")
    page.get_by_label("Preset").select_option("flat")
    page.get_by_label("Name of the dataset").fill("made-here")
    page.get_by_role("button", name="Preview two groups").click()
    expect(page.locator("figure.group")).to_have_count(2)
    expect(page.locator("figure.group img")).to_have_count(8)
    expect(page.get_by_text(re.compile(r"measured by the preview on 127\.0\.0\.1"))).to_be_visible()
    site.picture(page, "submit")
    with Client(site.services.address) as client:
        assert "made-here" not in [job.dataset for job in client.list_jobs()]
    page.get_by_role("button", name="Start the job").click()
    page.wait_for_url("**/jobs/made-here")
    expect(page.locator("section[aria-label=State] .state")).to_have_text("succeeded")
    site.picture(page, "job")
    page.reload()
    page.get_by_role("link", name="See its images").click()
    expect(page.locator("figure.group")).to_have_count(24)
    page.get_by_role("link", name="Next").click()
    expect(page.locator("figure.group")).to_have_count(6)
    page.locator("a.strip").first.click()
    expect(page.get_by_role("heading", level=1)).to_have_text(f"{HOSTILE} 24")
    expect(page.locator("figure.large img")).to_be_visible()
    assert page.evaluate("document.querySelector('figure.large img').naturalWidth") == 32
    page.get_by_role("button", name="Make it again on a worker").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("All 4 images have the same bytes")
    assert page.evaluate("window.hacked") is None


def test_the_whole_way_in_one_look(site: Site, page: Page) -> None:
    """What is done at a console of containers, too (scripts/compose_test)."""
    few = site.folder / "few.txt"
    few.write_text("a red shoe\na blue bag\na green coat\n")
    submit_and_look(page, site.url, few, "looked-at", preset="flat", seconds=WAIT / 1000)


def test_a_job_is_paused_resumed_cancelled_and_deleted_while_it_is_watched(site: Site, page: Page) -> None:
    many = site.folder / "many.txt"
    many.write_text("".join(f"shoe number {n}\n" for n in range(4000)))
    with Client(site.services.address) as client:
        client.create_job("long", many, preset="tiny")
    page.goto(f"{site.url}/jobs/long")
    state = page.locator("section[aria-label=State] .state")
    expect(state).to_have_text("running")
    page.get_by_role("button", name="Pause").click()
    expect(state).to_have_text("paused")
    page.get_by_role("button", name="Resume").click()
    expect(state).to_have_text("running")
    other = page.context.new_page()
    other.goto(f"{site.url}/jobs")
    expect(other.locator("#job-long .state")).to_have_text("running")
    page.get_by_role("button", name="Cancel").click()
    expect(state).to_have_text("cancelled")
    expect(other.locator("#job-long")).to_have_count(0)  # by itself: the page was not loaded again
    other.close()
    page.get_by_text("Delete this job").click()
    page.get_by_label("Write the name of the job").fill("long")
    page.get_by_role("button", name="Delete").click()
    page.wait_for_url("**/jobs")
    expect(page.get_by_role("link", name="long", exact=True)).to_have_count(0)


def test_captions_are_searched_and_two_datasets_compared(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/datasets")
    page.get_by_role("link", name="flat-a").click()
    page.get_by_label("Captions with").fill("of a BLUE")
    page.get_by_label("beside the dataset").fill("flat-b")
    page.get_by_role("button", name="Show").click()
    expect(page.locator("figure.group")).to_have_count(24)
    expect(page.get_by_text("100 captions were searched")).to_be_visible()
    assert all("blue" in text for text in page.locator("figcaption").all_inner_texts())
    expect(page.locator("figure.group >> nth=0").locator("a.strip")).to_have_count(2)
    site.picture(page, "compare")
    page.get_by_role("link", name="Next").click()
    expect(page.locator("figure.group")).to_have_count(33 - 24)
    assert "beside=flat-b" in page.url


def test_runs_are_started_followed_compared_and_measured(site: Site, page: Page) -> None:
    for name, rate in (("first", "0.001"), ("second", "0.004")):
        page.goto(f"{site.url}/train?datasets=flat-a")
        page.get_by_label("Name of the run").fill(name)
        page.get_by_label("Other settings").fill(f"{SETTINGS}\noptimizer.lr={rate}\nnonsense=1")
        page.get_by_role("button", name="Start the run").click()
        expect(page.get_by_role("alert")).to_contain_text("nonsense")
        page.get_by_label("Other settings").fill(f"{SETTINGS}\noptimizer.lr={rate}")
        page.get_by_role("button", name="Start the run").click()
        page.wait_for_url(f"**/runs/{name}")
    page.goto(f"{site.url}/runs/first")
    expect(page.locator("section[aria-label=State] .state")).to_have_text("succeeded")
    expect(page.locator("pre.log")).to_contain_text("step")
    expect(page.locator(".chart").first).to_have_attribute("aria-label", re.compile("^Loss. Last: first"))
    page.goto(f"{site.url}/runs/second")
    expect(page.locator("section[aria-label=State] .state")).to_have_text("succeeded")
    page.goto(f"{site.url}/runs")
    for name in ("first", "second"):
        page.get_by_label(f"Compare {name}").check()
    page.get_by_role("button", name="Compare the chosen runs").click()
    loss = page.locator(".chart").first
    expect(loss.locator("polyline")).to_have_count(2)
    loss.hover()
    expect(page.locator(".told")).to_contain_text("first at")
    site.picture(page, "runs")
    page.goto(f"{site.url}/datasets/flat-a/captions/5")
    page.get_by_label("Spread by the features of the run").select_option("first")
    page.get_by_role("button", name="Measure").click()
    expect(page.get_by_text("(1 - cosine)")).to_be_visible()
    page.goto(f"{site.url}/runs/first")
    page.get_by_text("Measure it by a probe").click()
    page.get_by_role("button", name="Start the probe").click()
    page.wait_for_url("**/runs/probe-first")
    expect(page.locator("section[aria-label=State] .state")).to_have_text("succeeded")
    page.goto(f"{site.url}/runs/first")
    page.get_by_role("link", name="Map of fashion").click()
    expect(page.locator("circle.point")).to_have_count(1000)
    expect(page.locator("ul.nearest li")).to_have_count(8)
    assert Axe().run(page).violations_count == 0
    page.locator("svg a").nth(40).click(force=True)
    page.wait_for_url(re.compile("photograph="))
    assert page.evaluate("document.querySelector('img.photograph').naturalWidth") == 112
    assert len(page.content()) < MOST_BYTES
    page.goto(f"{site.url}/compare?run=first&run=second")
    expect(page.locator("rect.bar").first).to_be_visible()
    site.picture(page, "probes")


def test_a_run_is_cancelled_and_deleted(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/train?datasets=flat-a&name=endless")
    page.get_by_label("Other settings").fill(SETTINGS.replace("steps=20", "steps=100000"))
    page.get_by_role("button", name="Start the run").click()
    page.wait_for_url("**/runs/endless")
    state = page.locator("section[aria-label=State] .state")
    expect(state).to_have_text("running")
    expect(page.locator(".chart").first).to_be_visible()  # by itself: the page was not loaded again
    page.get_by_role("button", name="Cancel").click()
    expect(state).to_have_text("cancelled")
    expect(page.get_by_role("button", name="Resume")).to_be_visible()
    page.get_by_text("Delete this run").click()
    page.get_by_label("Write the name of the run").fill("endless")
    page.get_by_role("button", name="Delete").click()
    page.wait_for_url("**/runs")
    expect(page.get_by_role("link", name="endless")).to_have_count(0)


PAGES = (
    "/jobs",
    "/jobs/flat-a",
    "/submit",
    "/datasets",
    "/datasets/flat-a",
    "/datasets/flat-a?q=red&beside=flat-b",
    "/datasets/flat-a/captions/3",
    "/datasets/flat-a/skipped",
    "/runs",
    "/train",
    "/sweeps",
    "/sweeps/guidance",
    "/system",
    "/sign-in",
    "/nowhere",
)


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_pages_are_accessible_narrow_and_small(site: Site, browser: Browser, scheme: str) -> None:
    sizes = {"width": 390, "height": 844} if scheme == "dark" else {"width": 1280, "height": 900}
    with watched(browser, viewport=sizes, color_scheme=scheme) as page:
        for path in PAGES:
            sent: list[int] = []

            def count(response: object, sent: list[int] = sent) -> None:
                if not str(response.headers.get("content-type", "")).startswith("image/jpeg"):  # type: ignore[attr-defined]
                    length = response.headers.get("content-length")  # type: ignore[attr-defined]
                    sent.append(int(length or 0))

            page.on("response", count)
            page.goto(site.url + path)
            page.remove_listener("response", count)
            found = Axe().run(page)
            assert found.violations_count == 0, (path, scheme, found.generate_report())
            assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), (path, sizes)
            assert sum(sent) < MOST_BYTES, (path, sum(sent))
            site.picture(page, f"{scheme}{path.replace('/', '-').partition('?')[0]}")


def test_a_keyboard_reaches_the_content_and_the_pages(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/jobs")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Skip to the content"
    page.keyboard.press("Enter")
    assert page.evaluate("document.activeElement.id") == "main"
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.textContent") == "Submit a job"


def test_pages_can_be_read_without_scripts(site: Site, browser: Browser) -> None:
    with watched(browser, java_script_enabled=False) as page:
        for path, text in (
            ("/jobs", "flat-a"),
            ("/datasets/flat-a", "caption 0 of a red shoe"),
            ("/system", "doctor"),
        ):
            page.goto(site.url + path)
            expect(page.locator("main")).to_contain_text(text)


def test_a_page_that_loses_its_gateway_says_so_and_recovers(site: Site, page: Page) -> None:
    page.goto(f"{site.url}/jobs")
    away = page.locator("#away")
    expect(away).to_be_hidden()
    gateway = next(child for child in site.services.processes.children if child.name == "gateway")
    gateway.process.send_signal(signal.SIGKILL)
    gateway.process.wait()
    expect(away).to_contain_text("The gateway does not answer")
    other = page.context.new_page()
    other.goto(f"{site.url}/runs")
    expect(other.get_by_role("heading", level=1)).to_have_text("Not available now")
    deadline = time.monotonic() + 60
    while gateway.process.poll() is not None:
        assert time.monotonic() < deadline
        site.services.revive()
        time.sleep(0.1)
    expect(away).to_be_hidden()
    expect(other.get_by_role("heading", level=1)).to_have_text("Runs")
    other.close()


def test_twins_say_what_the_pages_say(site: Site) -> None:
    found = httpx.get(f"{site.url}/jobs/flat-a.json").json()
    assert found["job"]["counts"]["images"] == 400
    assert found["job"]["worker_seconds"] > 0
    found = httpx.get(f"{site.url}/datasets/flat-a/captions/7.json").json()
    assert found["group"]["caption"] == "caption 7 of a blue shoe"
    assert len(found["sha256"]) == 4
    found = httpx.get(f"{site.url}/system.json").json()
    assert len(found["workers"]) == 1
    found = httpx.get(f"{site.url}/datasets/flat-a.json").json()
    assert found["info"]["recipe"]["model"] == "builtin:flat"
    assert found["groups"][1]["group"] == {**found["groups"][1]["group"], "caption_id": 1, "images": 4}
    page = httpx.get(f"{site.url}/datasets.json").json()
    assert {"flat-a", "flat-b"} <= {one["name"] for one in page["datasets"]}
