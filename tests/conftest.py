"""Fixtures that every test shares: stores, queues and a tiny recipe, on real servers (stablerep/testing).

A test module that should run on both queue servers says
`pytestmark = pytest.mark.parametrize("redis_kind", ["valkey", "redis"])`; otherwise it runs on Valkey, as the
product does.
"""

import os
import secrets
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import psutil
import pytest

from stablerep.testing.servers import MinioServer, RedisServer, VersityServer
from tests.tools import redis_program, tool

if TYPE_CHECKING:
    from stablerep.config.recipe import Recipe

STAGES = ("unit", "integration", "e2e")
BUILD_SECONDS = 2400  # the first test that needs the server may have to wait for its build
REPEATED_SECONDS = 3

os.environ.setdefault("OMP_NUM_THREADS", "1")  # more threads than cores make torch several times slower
os.environ.setdefault("HF_HUB_OFFLINE", "1")  # no test may depend on a download
for _name in [name for name in os.environ if name.startswith("STABLEREP_")]:
    if not _name.startswith("STABLEREP_TEST_"):
        del os.environ[_name]  # a developer's own settings must not decide a test


def pytest_configure() -> None:
    """Lets SIGTERM end the run as Ctrl-C does, so that the servers are stopped then, too.

    SIGINT is set as well: a shell starts background jobs with it ignored, and their children inherit that.
    """
    main = os.getpid()
    stopped_at = float("-inf")

    def stop(number: int, frame: FrameType | None) -> None:
        nonlocal stopped_at
        if os.getpid() != main:
            os._exit(128 + number)  # a process forked by a test
        # Processes that are stopped as a group may pass the signal on to each other: a second one is no news.
        first, stopped_at = time.monotonic() - stopped_at > REPEATED_SECONDS, time.monotonic()
        if first:
            raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, stop)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Ends what a test left running when it was stopped half-way through starting it; says so."""
    if config.getoption("numprocesses", None) and not hasattr(config, "workerinput"):
        return  # the children of this process are those that run the tests
    # Python's own helpers end with this process; what a forkserver has forked bears its command line, too.
    own = {child.pid for child in psutil.Process().children() if "multiprocessing" in _command(child)}
    for child in psutil.Process().children(recursive=True):
        try:
            command = _command(child)
            if child.pid not in own:
                child.kill()
                print(f"\ntests: ended a process that was left running: {command[:200]}", file=sys.stderr)
        except psutil.NoSuchProcess:
            continue


def _command(process: psutil.Process) -> str:
    """Raises psutil.NoSuchProcess."""
    return " ".join(process.cmdline())


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Orders unit, integration, e2e; gives tests that may wait for a tool's build the time for it."""
    items.sort(key=_stage)
    for item in items:
        if _may_wait(item):
            item.add_marker(pytest.mark.timeout(BUILD_SECONDS))


def _may_wait(item: pytest.Item) -> bool:
    """Whether it needs a tool that is built; of several kinds of store only some need a server."""
    if item.path.stem in ("test_deploy", "test_deploy_chart"):
        return True
    callspec = getattr(item, "callspec", None)
    parameters = set(map(str, callspec.params.values())) if callspec else set()
    if kinds := {"local", "s3", "minio", "versitygw"} & parameters:
        return kinds != {"local"}
    return bool({"minio_server", "versity_server"} & set(getattr(item, "fixturenames", ())))


def _stage(item: pytest.Item) -> int:
    return next((number for number, stage in enumerate(STAGES) if stage in item.path.parts), len(STAGES))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Says in one line each what the run had to do without (servers, tools), so that no skip goes unseen."""
    for reason in sorted(_missing_servers(terminalreporter)):
        terminalreporter.write_line(f"NOT TESTED: {reason}", yellow=True, bold=True)


def _missing_servers(reporter: pytest.TerminalReporter) -> set[str]:
    reasons = set()
    for report in reporter.stats.get("skipped", []):
        text = report.longrepr[2] if isinstance(report.longrepr, tuple) else ""
        if text.startswith("Skipped: no ") and ": " in text[len("Skipped: ") :]:
            reasons.add(text.removeprefix("Skipped: "))
    return reasons


@pytest.fixture(scope="session")
def minio_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[MinioServer]:
    """One MinIO server for the whole run; built first where there is none (scripts/test_tools.py)."""
    server = MinioServer(tool("minio"), tmp_path_factory.mktemp("minio"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def versity_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[VersityServer]:
    """A second S3 server, of other make; built first where there is none."""
    server = VersityServer(tool("versitygw"), tmp_path_factory.mktemp("versitygw"))
    yield server
    server.stop()


@pytest.fixture
def s3_url(minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """A fresh bucket's URL, with the environment set so that `open_store` and child processes reach it."""
    for name, value in minio_server.environment.items():
        monkeypatch.setenv(name, value)
    return f"s3://test-{secrets.token_hex(6)}/data"


@pytest.fixture(params=["local", "s3"])
def store_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """An empty store's URL: a local folder, then a bucket of a real S3 server."""
    if request.param == "s3":
        return str(request.getfixturevalue("s3_url"))
    return (tmp_path / "store").as_uri()


@pytest.fixture
def redis_kind() -> str:
    """Which queue server: "valkey" unless the test asks for another."""
    return "valkey"


@pytest.fixture
def redis_server(redis_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    """A queue server of the test's own, empty, with an append-only file; it may be killed and restarted."""
    server = RedisServer(redis_program(redis_kind), tmp_path_factory.mktemp(redis_kind))
    yield server
    server.stop()


@pytest.fixture
def redis_url(redis_server: RedisServer) -> str:
    """The URL of an empty queue server."""
    return redis_server.url


@pytest.fixture
def tiny_recipe() -> "Recipe":
    """Two images of two steps a caption, from the pipeline in the package: seconds, not minutes."""
    from stablerep.config.recipe import Recipe

    return Recipe(
        model="builtin:fashion",
        sampler="ddim",
        steps=2,
        guidance_scale=2.0,
        image_size=32,
        save_size=32,
        images_per_caption=2,
        batch_images=4,
        jpeg_quality=95,
        dtype="float32",
    )
