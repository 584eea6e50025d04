"""`services.trainer.launch` as a pod runs it: two machines of one run, one of them lost and replaced."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from services.trainer.exits import CANNOT, FINISHED, STOPPED
from stablerep.runs.config import load_train_config
from stablerep.runs.records import create_run, end_run, read_end, read_progress
from stablerep.runs.spec import Resources, RunSpec
from stablerep.shards.layout import run_key
from stablerep.storage import Store, open_store
from tests.training import SETTINGS, write_stripes


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    url = (tmp_path_factory.mktemp("launch") / "store").as_uri()
    write_stripes(url)
    return open_store(url)


class Machines:
    """The machines of one run, as processes of this one."""

    def __init__(self, store: Store, run: str, folder: Path) -> None:
        self._store, self._run, self._folder = store, run, folder
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._first = f"127.0.0.1:{found.getsockname()[1]}"
        self._started: list[subprocess.Popen[bytes]] = []

    def start(self, index: int) -> "subprocess.Popen[bytes]":
        environment = {
            "STABLEREP_STORE_URL": self._store.url,
            "JOB_COMPLETION_INDEX": str(index),
            "STABLEREP_RENDEZVOUS": self._first,
            "POD_IP": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        with (self._folder / f"{self._run}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-u", "-m", "services.trainer.launch", "--run", self._run],
                env={**os.environ, **environment},
                stdout=log,
                stderr=log,
            )
        self._started.append(process)
        return process

    def wait_for_step(self, step: int) -> None:
        deadline = time.monotonic() + 120
        while (progress := read_progress(self._store, self._run)) is None or progress.step < step:
            log = (self._folder / f"{self._run}.log").read_text(errors="replace")
            assert time.monotonic() < deadline, log[-3000:]
            time.sleep(0.05)

    def end(self) -> None:
        for process in self._started:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True):
                    child.kill()
                process.kill()
                process.wait()


@pytest.fixture
def machines(store: Store, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Machines]:
    """Those of the run that the test's parameter names, which is created."""
    run, nodes, steps = request.param
    create(store, run, nodes, steps)
    made = Machines(store, run, tmp_path)
    yield made
    made.end()


def create(store: Store, run: str, nodes: int, steps: int = 40) -> None:
    settings = SETTINGS | {"run": f"{store.url}/runs/{run}", "datasets": [f"{store.url}/datasets/stripes"]}
    train = load_train_config("demo", settings | {"steps": steps})
    spec = RunSpec(run=run, train=train, resources=Resources(nodes=nodes), launcher="kubernetes")
    assert create_run(store, spec)


def launch(store: Store, run: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.trainer.launch", "--run", run],
        env={**os.environ, "STABLEREP_STORE_URL": store.url},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )


@pytest.mark.parametrize("machines", [("replaced", 2, 40)], indirect=True)
def test_a_machine_that_replaces_a_lost_one_joins(machines: Machines, store: Store) -> None:
    first, second = machines.start(0), machines.start(1)
    machines.wait_for_step(12)
    # As a node that vanishes: agent and trainer at once, without a word.
    for child in psutil.Process(second.pid).children(recursive=True):
        child.kill()
    second.kill()
    third = machines.start(1)
    assert third.wait(150) == FINISHED
    assert first.wait(30) == FINISHED, "it went on with the new one, in the same process"
    end = read_end(store, "replaced")
    assert end is not None
    assert end.state == "SUCCEEDED"
    assert store.exists(run_key("replaced", "export/model.safetensors"))


@pytest.mark.parametrize("machines", [("told", 2, 100_000)], indirect=True)
def test_machines_that_are_told_to_stop_write_one_checkpoint(machines: Machines, store: Store) -> None:
    processes = [machines.start(0), machines.start(1)]
    machines.wait_for_step(12)
    for process in processes:
        process.send_signal(signal.SIGTERM)
    assert [process.wait(60) for process in processes] == [STOPPED, STOPPED]
    names = [int(name.strip("/")) for name in store.children(run_key("told", "checkpoints/"))]
    assert max(names) >= 12
    assert read_end(store, "told") is None


@pytest.mark.parametrize("machines", [("alone", 2, 40)], indirect=True)
def test_a_machine_that_waits_for_others_stops_at_once(machines: Machines) -> None:
    process = machines.start(1)
    time.sleep(6)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(15) in (STOPPED, -signal.SIGTERM)


def test_a_run_that_is_over_is_not_started(store: Store) -> None:
    for run, state, status in (
        ("no", "FAILED", CANNOT),
        ("off", "CANCELLED", STOPPED),
        ("ok", "SUCCEEDED", 0),
    ):
        create(store, run, 1)
        end_run(store, run, state)
        done = launch(store, run)
        assert (done.returncode, done.stderr.strip()) == (status, f"run {run} is over")


def test_what_is_missing_is_named(store: Store) -> None:
    assert "there is no run nothing" in launch(store, "nothing").stderr
    create(store, "lost", 2)
    done = launch(store, "lost")
    assert (done.returncode, "JOB_COMPLETION_INDEX: is not set" in done.stderr) == (CANNOT, True)
