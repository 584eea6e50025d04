"""A real gateway process for tests, and what tests of it ask: caption files, waiting, what was planned."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import TracebackType

from stablerep.client import Client, Job, JobState
from stablerep.queue.client import Queue
from stablerep.shards import read_captions
from stablerep.shards.layout import captions_prefix, shard_of
from stablerep.storage import open_store

START_SECONDS = 60.0


class GatewayProcess:
    """`python -m services.gateway`; its log is `gateway.log` in `folder`. Use it in a `with` block."""

    def __init__(self, folder: Path, store_url: str, redis_url: str, **environment: str) -> None:
        self.address = "127.0.0.1:0"
        self._folder = folder
        self._environment = {
            "STABLEREP_STORE_URL": store_url,
            "STABLEREP_REDIS_URL": redis_url,
            **environment,
        }
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "GatewayProcess":
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end(signal.SIGKILL)

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def log(self) -> str:
        return (self._folder / "gateway.log").read_text(errors="replace")

    def start(self) -> None:
        """Returns once it serves, on the address it had before."""
        self._folder.mkdir(parents=True, exist_ok=True)
        announced = self._folder / "gateway.json"
        announced.unlink(missing_ok=True)
        environment = {
            **self._environment,
            "STABLEREP_GATEWAY__ADDRESS": self.address,
            "STABLEREP_GATEWAY__ANNOUNCE": str(announced),
        }
        with (self._folder / "gateway.log").open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.gateway"],
                env=os.environ | environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        deadline = time.monotonic() + START_SECONDS
        while not announced.exists():
            if self._process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the gateway did not come up; its log ends:\n{self.log[-3000:]}")
            time.sleep(0.02)
        self.address = json.loads(announced.read_text())["address"]

    def end(self, number: signal.Signals) -> int:
        """Sends the signal and returns the exit status; a process that ended already is fine."""
        process, self._process = self._process, None
        if process is None:
            return 0
        process.send_signal(number)
        try:
            return process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise


def caption_file(folder: Path, count: int, name: str = "captions.txt", words: int = 4) -> Path:
    """A text file of `count` captions, all different."""
    chance = random.Random(count)
    path = folder / name
    with path.open("w") as file:
        for number in range(count):
            tail = " ".join(chance.choice(["red", "blue", "shoe", "bag", "plain"]) for _ in range(words))
            file.write(f"caption {number} {tail}\n")
    return path


def wait_for(client: Client, name: str, condition: Callable[[Job], bool], seconds: float = 60) -> Job:
    """The job once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition(job := client.get_job(name)):
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


def planned(client: Client, name: str, seconds: float = 60) -> Job:
    """The job once it is no longer PLANNING."""
    return wait_for(client, name, lambda job: job.state is not JobState.PLANNING, seconds)


def planned_captions(store_url: str, dataset: str) -> list[list[tuple[int, str]]]:
    """The captions of every shard in the store, by shard number."""
    store = open_store(store_url)
    shards = [shard_of(info.key) for info in store.list(captions_prefix(dataset))]
    assert shards == list(range(len(shards)))
    return [[(c.id, c.text) for c in read_captions(store, dataset, shard)] for shard in shards]


def lease_all(redis_url: str) -> list[int]:
    """Every shard that the queue hands out, in order of its number."""
    queue = Queue(redis_url)
    shards = []
    while (lease := queue.lease("tester", 60)) is not None:
        shards.append(lease.shard)
        queue.complete(lease, groups=1, images=1, skipped=0)
    queue.close()
    return sorted(shards)
