"""Real generator workers, forked from one process that has imported torch and diffusers."""

import json
import multiprocessing
import os
import runpy
import signal
import sys
import time
import urllib.request
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from stablerep.config.recipe import Recipe
from stablerep.errors import Unavailable
from stablerep.queue.client import Queue
from stablerep.shards import DatasetInfo, write_captions, write_dataset
from stablerep.storage import Store

START_SECONDS = 240.0  # the first one imports torch and diffusers, on a busy machine
_processes = multiprocessing.get_context("forkserver")
_processes.set_forkserver_preload(["services.generator.service"])


class WorkerProcess:
    """`python -m services.generator` in a process of its own, its log in `folder`."""

    def __init__(self, folder: Path, *, store_url: str, redis_url: str, **settings: object) -> None:
        folder.mkdir(parents=True)
        self.log = folder / "log"
        self._announcement = folder / "address.json"
        values = {"store_url": store_url, "redis_url": redis_url, "generator.announce": self._announcement}
        values |= {f"generator.{name}": value for name, value in settings.items()}
        arguments = [word for key, value in values.items() for word in ("--set", f"{key}={value}")]
        environment = {key: os.environ[key] for key in os.environ if key.startswith(("STABLEREP_", "HF_"))}
        self._process = _processes.Process(
            target=_run, args=(arguments, environment, str(self.log)), daemon=True
        )
        self._process.start()

    @property
    def pid(self) -> int:
        pid = self._process.pid
        assert pid is not None
        return pid

    @property
    def address(self) -> str:
        """host:port, once it serves. Raises AssertionError with its log when it does not."""
        return self._announced()["address"]

    def metric(self, name: str, **labels: str) -> float:
        """A number from its /metrics, which `metrics_address` must have asked for; 0 if it is not there."""
        text = (
            urllib.request.urlopen(f"http://{self._announced()['metrics_address']}/metrics").read().decode()
        )
        samples = (sample for family in text_string_to_metric_families(text) for sample in family.samples)
        return sum(
            sample.value
            for sample in samples
            if sample.name == name and labels.items() <= sample.labels.items()
        )

    def _announced(self) -> dict[str, str]:
        deadline = time.monotonic() + START_SECONDS
        while not self._announcement.exists():
            assert self._process.is_alive(), self.text()
            assert time.monotonic() < deadline, self.text()
            time.sleep(0.02)
        facts: dict[str, str] = json.loads(self._announcement.read_text(encoding="utf-8"))
        return facts

    def send(self, number: signal.Signals) -> None:
        os.kill(self.pid, number)

    def wait(self, seconds: float = 240.0) -> int | None:
        """Exit status; negative for a signal; None if it still runs."""
        self._process.join(seconds)
        return self._process.exitcode

    def text(self) -> str:
        """What it has logged."""
        return self.log.read_text(encoding="utf-8") if self.log.exists() else ""

    def end(self) -> None:
        """Makes sure that it is gone."""
        if self._process.is_alive():
            self._process.kill()
            self._process.join()


def _run(arguments: Sequence[str], environment: dict[str, str], log: str) -> None:
    # The process forked from has the environment of the test that first started a worker.
    for name in [name for name in os.environ if name.startswith("STABLEREP_")]:
        del os.environ[name]
    os.environ.update(environment)
    with open(log, "ab", buffering=0) as file:  # noqa: PTH123
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = ["services.generator", *arguments]
    runpy.run_module("services.generator", run_name="__main__")


def plan_job(
    store: Store,
    queue: Queue,
    dataset: str,
    recipe: Recipe,
    shards: Sequence[Sequence[tuple[int, str]]],
    seed: int = 7,
    planned: int | None = None,
) -> None:
    """A job as the gateway leaves it after planning; with `planned`, when it has come so far."""
    info = DatasetInfo(
        name=dataset,
        recipe=recipe.model_dump(),
        recipe_digest=recipe.digest,
        job_seed=seed,
        captions_per_shard=max(map(len, shards)),
        source={},
        create_time=datetime.now(UTC),
    )
    write_dataset(store, info)
    _add_job(queue, dataset)
    for number, captions in enumerate(shards):
        write_captions(store, dataset, number, captions)
    queue.set_planned(dataset, len(shards) if planned is None else planned)
    if planned is None:
        queue.finish_planning(dataset)


def _add_job(queue: Queue, dataset: str) -> None:
    """Adds the job; a worker that has just started may be rebuilding the empty queue for a moment."""
    deadline = time.monotonic() + 20
    while True:
        try:
            queue.begin_epoch()
            queue.add_job(dataset)
            return
        except Unavailable:
            assert time.monotonic() < deadline
            time.sleep(0.05)
