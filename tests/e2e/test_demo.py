"""The demo in real processes: a worker and a trainer are killed, the demo is interrupted and resumed."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psutil
import pytest

from stablerep.client import GeneratorClient
from stablerep.data import GroupDataset

SHARDS = 8

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(900)]


class Demo:
    """A demo in a folder, started as a user would."""

    def __init__(self, out: Path) -> None:
        self.out = out
        self.output = out.parent / "output.txt"
        self.interrupted_with: int | None = None
        self.finished_with: int | None = None
        self.left_alive: list[int] = []
        self.indexed_at_interrupt = 0
        self.logged_before_kill: list[str] = []

    def start(self, *more: str) -> subprocess.Popen[bytes]:
        command = [sys.executable, "-m", "stablerep", "demo", "--size", "tiny", "--out", str(self.out), *more]
        with self.output.open("ab") as output:
            return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)

    def pid_of(self, child: str) -> int | None:
        file = self.out / "logs" / f"{child}.pid"
        return int(file.read_text()) if file.exists() else None

    def indexed(self) -> int:
        return len(list((self.out / "store/datasets/demo/index").glob("*.json")))

    def logged(self, run: str) -> list[str]:
        file = self.out / "store/runs" / run / "metrics.jsonl"
        return file.read_text().splitlines() if file.exists() else []

    def checkpointed(self, run: str) -> int:
        """The last step of which there is a whole checkpoint; 0 without one."""
        found = (self.out / "store/runs" / run).glob("checkpoints/*/checkpoint.json")
        return max((int(file.parent.name) for file in found), default=0)

    def works(self, child: str) -> bool:
        """Whether a worker has a shard in hand at this moment, as it says itself."""
        address = self.out / "logs" / f"{child}.address.json"
        if not address.exists():
            return False
        with GeneratorClient(json.loads(address.read_text())["address"]) as client:
            return bool(client.status().shard)


def wait_until(condition: Callable[[], Any], process: subprocess.Popen[bytes], what: str) -> None:
    deadline = time.monotonic() + 400
    while not condition():
        assert process.poll() is None, f"the demo ended before {what}"
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(0.02)


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def queue_server(demo: subprocess.Popen[bytes]) -> int | None:
    """The process id of the demo's queue server, if it runs."""
    for child in psutil.Process(demo.pid).children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):
            if child.name() == "valkey-server" and child.status() != psutil.STATUS_ZOMBIE:
                return child.pid
    return None


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    """A finished tiny demo that lost a worker and its queue server, was interrupted, and lost a trainer."""
    demo = Demo(tmp_path_factory.mktemp("e2e") / "demo")
    first = demo.start()
    started = [first]
    try:
        wait_until(lambda: demo.indexed() >= 1, first, "the first shard")
        wait_until(lambda: demo.works("generator-0"), first, "a worker with a shard in hand")
        worker = demo.pid_of("generator-0")
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: demo.pid_of("generator-0") not in (None, worker), first, "another worker")
        server = queue_server(first)
        assert server is not None
        os.kill(server, signal.SIGKILL)
        wait_until(lambda: queue_server(first) not in (None, server), first, "another queue server")
        children = [demo.pid_of(name) for name in ("gateway", "generator-0", "generator-1")]
        demo.indexed_at_interrupt = demo.indexed()
        first.send_signal(signal.SIGINT)
        demo.interrupted_with = first.wait(90)
        demo.left_alive = [pid for pid in children if pid and alive(pid)]
        second = demo.start()
        started.append(second)
        run = "stablerep-0"
        wait_until(lambda: demo.checkpointed(run), second, "a checkpoint")
        trainer = demo.pid_of(f"trainer-{run}")
        assert trainer is not None
        reached = demo.checkpointed(run)
        demo.logged_before_kill = [x for x in demo.logged(run) if json.loads(x)["step"] <= reached]
        os.kill(trainer, signal.SIGKILL)
        demo.finished_with = second.wait(600)
    finally:
        for process in started:
            if process.poll() is None:
                process.kill()
    return demo


def test_ctrl_c_stops_every_child_and_says_how_to_go_on(demo: Demo) -> None:
    assert demo.interrupted_with not in (0, None)
    assert demo.left_alive == []
    assert demo.indexed_at_interrupt < SHARDS, "it was not interrupted in the middle of generation"
    command = f"{sys.executable} -m stablerep demo --size tiny --seeds 1 --out {demo.out}"
    assert f"Go on with: {command}\n" in demo.output.read_text()


def test_the_resumed_demo_finishes(demo: Demo) -> None:
    assert demo.finished_with == 0, demo.output.read_text()


def test_no_group_is_missing_or_twice_after_the_kills(demo: Demo) -> None:
    groups = list(GroupDataset(str(demo.out / "store/datasets/demo")))
    assert sorted(group.caption_id for group in groups) == list(range(48))
    assert {len(group.encoded) for group in groups} == {4}


def test_the_killed_trainer_went_on_from_its_checkpoint(demo: Demo) -> None:
    said = " ".join(demo.output.read_text().split())
    assert "trainer-stablerep-0 was ended by signal 9 (Killed); restarting it in 1 s" in said
    # Lines carry seconds: a run that had started over would have measured others.
    assert demo.logged_before_kill
    assert demo.logged("stablerep-0")[: len(demo.logged_before_kill)] == demo.logged_before_kill
    steps = [json.loads(line)["step"] for line in demo.logged("stablerep-0")]
    assert steps == list(range(1, 21))


def test_the_report_has_the_numbers_of_every_row(demo: Demo) -> None:
    report = json.loads((demo.out / "report.json").read_text())
    assert list(report["probe"]) == ["stablerep", "simclr", "random", "pixels"]
    for measured in report["probe"].values():
        for column in ("linear", "few", "knn"):
            (value,) = measured[column]
            assert 0.1 < value < 1.0
    assert report["images"]["distinct"] == 192
    assert set(report["seconds"]) == {"timing", "generate", "train", "probe", "report", "total"}


def test_the_report_is_one_page_that_needs_nothing_else(demo: Demo) -> None:
    page = (demo.out / "report.html").read_text()
    assert page.count("data:image/jpeg;base64,") >= 4 * 24
    assert page.count("<svg") >= 6
    assert 'src="http' not in page
    assert 'href="http' not in page


def test_the_exported_encoder_is_a_plain_timm_checkpoint(demo: Demo) -> None:
    code = (
        "import sys, timm, torch;"
        "model = timm.create_model('local-dir:' + sys.argv[1], pretrained=True).eval();"
        "print(*model(torch.zeros(2, 3, 28, 28)).shape)"
    )
    command = [sys.executable, "-I", "-c", code, str(demo.out / "export")]
    result = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert result.stdout.split() == ["2", "192"], result.stderr


def test_other_settings_in_the_same_folder_are_refused(demo: Demo) -> None:
    command = [sys.executable, "-m", "stablerep", "demo", "--out", str(demo.out)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert result.returncode == 1
    assert "size: tiny there, demo now" in " ".join(result.stderr.split())
