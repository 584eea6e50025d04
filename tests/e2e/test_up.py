"""`stablerep up` as a user runs it: it outlives a server that dies, and leaves nothing when it stops."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from stablerep.client import Client, Job
from stablerep.data import GroupDataset
from stablerep.errors import Unavailable

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(600)]

WORDS = ("black", "white", "grey", "pale", "dark")
CAPTIONS = [f"{a} plain {b}" for a in WORDS for b in ("t-shirt", "dress", "coat", "sandal", "bag", "sneaker")]


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def test_a_job_survives_the_queue_server_and_a_stop_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "captions.txt").write_text("\n".join(CAPTIONS))
    address = f"127.0.0.1:{free_port()}"
    command = [
        sys.executable,
        "-m",
        "stablerep",
        "up",
        "--data",
        str(tmp_path / "data"),
        "--address",
        address,
    ]
    log = (tmp_path / "up.log").open("wb")
    up = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, start_new_session=True)
    try:
        with Client(address, timeout=60) as client:
            job = _created(client, tmp_path / "captions.txt", up)
            while not job.counts.done:
                assert not job.done
                time.sleep(0.1)
                job = client.get_job(job.name)
            children = psutil.Process(up.pid).children(recursive=True)
            (queue_server,) = [c for c in children if "valkey-server" in c.name() or "redis" in c.name()]
            os.kill(queue_server.pid, signal.SIGKILL)
            for job in client.watch_job("shoes"):
                assert not job.counts.dead
        assert job.state.value == "SUCCEEDED"
        assert (job.counts.groups, job.counts.images) == (len(CAPTIONS), 2 * len(CAPTIONS))
        children = psutil.Process(up.pid).children(recursive=True)
        assert len(children) >= 3
        up.send_signal(signal.SIGTERM)
        assert up.wait(60) == 0
        assert not [child for child in children if child.is_running()]
    finally:
        if up.poll() is None:
            up.kill()
    groups = GroupDataset(str(tmp_path / "data/store/datasets/shoes"))
    assert sorted(group.caption_id for group in groups) == list(range(len(CAPTIONS)))


def _created(client: Client, captions: Path, up: subprocess.Popen[bytes]) -> Job:
    deadline = time.monotonic() + 120
    while True:
        try:
            recipe = {"steps": "10", "images_per_caption": "2", "batch_images": "16"}
            return client.create_job("shoes", captions, preset="tiny", recipe=recipe, captions_per_shard=2)
        except Unavailable:
            assert up.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.2)
