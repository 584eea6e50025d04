"""`stablerep up` as a user runs it: it outlives servers and workers that die, and leaves no process."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import psutil
import pytest

from stablerep.client import Client, Job
from stablerep.data import GroupDataset
from stablerep.errors import Unavailable

pytestmark = pytest.mark.e2e

WORDS = ("black", "white", "grey", "pale", "dark")
CAPTIONS = [f"{a} plain {b}" for a in WORDS for b in ("t-shirt", "dress", "coat", "sandal", "bag", "sneaker")]
KILLS = 3  # test_restarts.py has more: here each costs the start of a worker


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


@contextmanager
def running_up(folder: Path, *options: str) -> Iterator[subprocess.Popen[bytes]]:
    command = [sys.executable, "-m", "stablerep", "up", "--data", str(folder / "data"), *options]
    with (folder / "up.log").open("wb") as log:
        up = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        yield up
    finally:
        up.kill()
        up.wait()


def test_a_job_survives_dying_servers_and_workers_and_a_stop_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    address = f"127.0.0.1:{free_port()}"
    with running_up(tmp_path, "--address", address) as up, Client(address, timeout=60) as client:
        job = _created(client, tmp_path / "captions.txt", up)
        _wait_for_done(client, 1)
        for kill in range(KILLS):
            done = client.get_job("shoes").counts.done
            os.kill(int((tmp_path / "data/logs/generator-0.pid").read_text()), signal.SIGKILL)
            if kill == 1:
                os.kill(json.loads((tmp_path / "data/redis/server.json").read_text())["pid"], signal.SIGKILL)
            _wait_for_done(client, done + 1)
        for job in client.watch_job("shoes"):
            assert not job.counts.dead
        assert job.state.value == "SUCCEEDED"
        assert (job.counts.groups, job.counts.images) == (len(CAPTIONS), 2 * len(CAPTIONS))
        _train(client)
        _look(tmp_path / "up.log")
        children = psutil.Process(up.pid).children(recursive=True)
        assert len(children) >= 4
        up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 0
        assert not [child for child in children if child.is_running()]
    said = (tmp_path / "up.log").read_text()
    assert said.count("generator-0 was ended by signal 9 (Killed); restarting it in ") == KILLS
    assert "restarting it in 4 s" not in said  # it had worked each time
    assert said.count("the queue server has ended; restarting it in 1 s") == 1
    groups = GroupDataset(str(tmp_path / "data/store/datasets/shoes"))
    assert sorted(group.caption_id for group in groups) == list(range(len(CAPTIONS)))


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends children with their parent")
def test_killing_it_ends_its_children(tmp_path: Path) -> None:
    with running_up(tmp_path, "--address", "127.0.0.1:0", "--workers", "2") as up:
        _wait_for_text(up, tmp_path / "up.log", "submit with")
        children = psutil.Process(up.pid).children(recursive=True)
        assert len(children) == 6  # queue server, gateway, two workers, trainer, console
        up.kill()
        _, alive = psutil.wait_procs(children, timeout=60)
        assert not alive


def test_settings_that_cannot_work_end_it_with_the_cause(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STABLEREP_GENERATOR__DEVICE", "quantum")
    with running_up(tmp_path, "--address", "127.0.0.1:0") as up:
        assert up.wait(120) == 1
    said = (tmp_path / "up.log").read_text()
    assert "generator-0 ended with status 2" in said
    assert "generator.device" in said
    assert "restarting" not in said


def _look(log: Path) -> None:
    """The address that it printed is the console's."""
    found = re.search(r"console at (http://127\.0\.0\.1:\d+)", log.read_text())
    assert found is not None
    assert "shoes" in httpx.get(f"{found[1]}/jobs").text
    assert httpx.get(f"{found[1]}/runs/first.json").json()["run"]["state"] == "SUCCEEDED"


def _train(client: Client) -> None:
    """A run on the job's dataset, by the trainer that `up` starts; another one is cancelled."""
    config = {
        "method.images_per_caption": 2,
        "views_per_batch": 12,
        "steps": 20,
        "checkpoint_every": 5,
        "log_every": 1,
    }
    client.runs.train("first", ["shoes"], preset="demo", config=config)
    run, _ = list(client.runs.watch("first", timeout=200))[-1]
    assert (run.state.value, run.step) == ("SUCCEEDED", 20), run.error
    client.runs.train("second", ["shoes"], preset="demo", config=config | {"steps": 100_000})
    states = []
    for run, metrics in client.runs.watch("second", timeout=200):
        states.append(run.state.value)
        if metrics:
            client.runs.cancel("second")
    assert states[-1] == "CANCELLED"


def _wait_for_done(client: Client, shards: int) -> None:
    deadline = time.monotonic() + 120
    while client.get_job("shoes").counts.done < shards:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _wait_for_text(up: subprocess.Popen[bytes], log: Path, text: str) -> None:
    deadline = time.monotonic() + 120
    while text not in log.read_text():
        assert up.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.1)


def _created(client: Client, captions: Path, up: subprocess.Popen[bytes]) -> Job:
    deadline = time.monotonic() + 120
    while True:
        try:
            recipe = {"steps": "10", "images_per_caption": "2", "batch_images": "16"}
            return client.create_job("shoes", captions, preset="tiny", recipe=recipe, captions_per_shard=1)
        except Unavailable:
            assert up.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
