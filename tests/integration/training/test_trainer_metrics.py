"""A training run's metrics, in the process and over HTTP: what is told is what was done."""

import math
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path

from stablerep.storage import open_store
from stablerep.testing.servers import free_port
from stablerep.training.checkpoint import checkpoint_steps
from stablerep.training.loop import train
from tests.integration.training.test_training import ALONE, configuration
from tests.scrape import get, scrape, value, wait_until
from tests.training import write_stripes


class Recorder:
    """Keeps all that a run tells."""

    def __init__(self) -> None:
        self.began: list[tuple[str, int, int]] = []
        self.steps: list[tuple[int, int, float]] = []
        self.losses: list[float] = []
        self.checkpoints: list[float] = []
        self.metrics: list[dict[str, float]] = []

    def on_start(self, run: str, step: int, steps: int) -> None:
        self.began.append((run, step, steps))

    def on_step(self, step: int, views: int, waited: float) -> None:
        self.steps.append((step, views, waited))

    def on_loss(self, loss: float) -> None:
        self.losses.append(loss)

    def on_metrics(self, metrics: Mapping[str, float]) -> None:
        self.metrics.append(dict(metrics))

    def on_checkpoint(self, seconds: float) -> None:
        self.checkpoints.append(seconds)


def test_a_run_tells_every_step_and_checkpoint_and_goes_on_counting_after_a_stop(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    write_stripes(url)
    config = configuration(url, "told", steps=30, checkpoint_every=10)
    first, second = Recorder(), Recorder()
    stop = threading.Event()
    original = first.on_step

    def stop_at_ten(step: int, views: int, waited: float) -> None:
        original(step, views, waited)
        if step == 10:
            stop.set()

    first.on_step = stop_at_ten  # type: ignore[method-assign]
    assert train(config, ALONE, stop, first) is None
    result = train(config, ALONE, threading.Event(), second)
    assert result
    assert first.began == [("told", 0, 30)]
    stopped = first.steps[-1][0]
    assert second.began == [("told", stopped, 30)]
    steps = [*first.steps, *second.steps]
    assert [step for step, _, _ in steps] == list(range(1, 31))
    assert {views for _, views, _ in steps} == {24}
    assert all(0 <= waited < 60 for _, _, waited in steps)
    assert second.losses[-1] == result["loss"]
    assert second.metrics[-1]["loss"] == result["loss"]
    on_checkpoint = len(first.checkpoints) + len(second.checkpoints)
    assert on_checkpoint == len({10, 20, 30} | {stopped})
    assert checkpoint_steps(open_store(url), "told") == [20, 30]


def test_a_trainer_process_serves_its_metrics_until_it_ends(tmp_path: Path) -> None:
    url = (tmp_path / "store").as_uri()
    write_stripes(url)
    config = configuration(url, "served", steps=100_000, checkpoint_every=20)
    address = f"127.0.0.1:{free_port()}"
    log = tmp_path / "log"
    with log.open("wb") as file:
        process = subprocess.Popen(
            [sys.executable, "-m", "services.trainer", "--config-json", config.model_dump_json()],
            env={**os.environ, "OMP_NUM_THREADS": "1", "STABLEREP_TRAINER__METRICS_ADDRESS": address},
            stdout=file,
            stderr=file,
        )
    try:

        def checkpointed() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                return value(address, "stablerep_training_checkpoint_seconds_count") >= 1
            except OSError:
                return False

        wait_until(checkpointed, 120)
        assert get(address, "/healthz") == (200, "ok\n")
        assert get(address, "/readyz") == (200, "ok\n")
        told = {name: number for (name, labels), number in scrape(address).items() if not labels}
        run = frozenset({("run", "served")})
        assert scrape(address)["stablerep_training_run_info", run] == 1
        assert told["stablerep_training_steps_total"] >= 20
        # The run goes on while its numbers are read, one after the other.
        steps = told["stablerep_training_steps_total"]
        assert abs(told["stablerep_training_views_total"] / 24 - steps) <= 5
        assert abs(told["stablerep_training_step"] - steps) <= 5
        assert told["stablerep_training_planned_steps"] == 100_000
        assert 0 < told["stablerep_training_loss"] < 10 * math.log(24)
        assert told["stablerep_training_data_wait_seconds_total"] > 0
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 75
    finally:
        process.kill()
        process.wait()
