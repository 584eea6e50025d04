"""A trainer service carries out runs for real: one after the other, over kills, stops and wrong settings."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from stablerep.client import Client, Run, RunState
from stablerep.runs.records import read_spec
from stablerep.shards.layout import run_key
from stablerep.storage import Store, open_store
from stablerep.testing.gateway import GatewayProcess
from stablerep.testing.servers import RedisServer
from tests.tools import redis_program
from tests.training import SETTINGS, describe, write_stripes

SLOW = {**SETTINGS, "steps": 100_000}


@dataclass
class World:
    """A gateway, its store, and a trainer service that may be killed and started again."""

    client: Client
    store: Store
    start: Callable[[], "subprocess.Popen[bytes]"]
    trainer: "subprocess.Popen[bytes]"
    log: Path

    def create(self, run: str, config: dict[str, object], **more: object) -> Run:
        return self.client.runs.train(run, ["stripes"], preset="demo", config=config, **more)

    def finished(self, run: str) -> Run:
        return list(self.client.runs.watch(run, timeout=400))[-1][0]

    def processes(self, run: str) -> list[psutil.Process]:
        """Those of the run that train."""
        found = []
        for each in psutil.Process(self.trainer.pid).children(recursive=True):
            with contextlib.suppress(psutil.Error):  # it ended meanwhile
                if each.cmdline()[-3:] == ["services.trainer", "--run", run]:
                    found.append(each)
        return found

    def wait(self, what: str, found: Callable[[], object], seconds: float = 120) -> None:
        deadline = time.monotonic() + seconds
        while not found():
            assert time.monotonic() < deadline, f"{what}; the log ends: {self.log.read_text()[-3000:]}"
            time.sleep(0.1)

    def step(self, run: str) -> int:
        return self.client.runs.get(run).step


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("runs")
    url = (folder / "store").as_uri()
    write_stripes(url)
    describe(url)
    server = RedisServer(redis_program("valkey"), folder)
    environment = {"STABLEREP_STORE_URL": url, "STABLEREP_REDIS_URL": server.url, "OMP_NUM_THREADS": "1"}
    log = folder / "trainer.log"

    def start() -> "subprocess.Popen[bytes]":
        with log.open("ab") as out:
            return subprocess.Popen(
                [sys.executable, "-m", "services.trainer.take_runs"],
                env={**os.environ, **environment},
                stdout=out,
                stderr=out,
            )

    try:
        with (
            GatewayProcess(folder / "gateway", url, server.url) as gateway,
            Client(gateway.address) as client,
        ):
            made = World(client, open_store(url), start, start(), log)
            yield made
            made.trainer.terminate()
            assert made.trainer.wait(60) == 0
    finally:
        server.stop()


def losses(store: Store, run: str) -> dict[int, float]:
    lines = map(json.loads, store.get(run_key(run, "metrics.jsonl")).splitlines())
    return {line["step"]: line["loss"] for line in lines}


def test_a_killed_run_is_resumed_and_learns_what_an_undisturbed_one_does(world: World) -> None:
    world.create("killed", SETTINGS, processes_per_node=2)
    world.create("waiting", {**SETTINGS, "steps": 4})
    world.wait("a checkpoint and more", lambda: world.step("killed") >= 14)
    assert world.client.runs.get("waiting").state == RunState.QUEUED, "one after the other"
    victim, other = world.processes("killed")
    victim.kill()
    run = world.finished("killed")
    assert (run.state, run.result["ranks"]) == (RunState.SUCCEEDED, 2)
    assert world.finished("waiting").state == RunState.SUCCEEDED
    assert not other.is_running()
    world.create("still", SETTINGS, processes_per_node=2)
    assert world.finished("still").state == RunState.SUCCEEDED
    assert losses(world.store, "killed") == losses(world.store, "still")
    weights = [world.store.get(run_key(name, "export/model.safetensors")) for name in ("killed", "still")]
    assert weights[0] == weights[1]
    log = "".join(world.client.runs.logs("killed"))
    assert "encoder in export/" in log


def test_a_service_that_is_killed_leaves_its_run_to_the_next(world: World) -> None:
    world.create("handed-over", SLOW)
    world.wait("it trains", lambda: world.step("handed-over") >= 12)
    (process,) = world.processes("handed-over")
    world.trainer.kill()
    world.trainer.wait()
    process.wait(60)  # it ends with its service, and writes a checkpoint
    reached = world.step("handed-over")
    world.trainer = world.start()
    world.wait("it goes on", lambda: world.step("handed-over") > reached)
    world.client.runs.cancel("handed-over")
    world.wait("its process is gone", lambda: not world.processes("handed-over"))
    world.client.runs.delete("handed-over")


def test_a_service_that_is_stopped_lets_its_run_write_a_checkpoint(world: World) -> None:
    world.create("stopped", {**SLOW, "checkpoint_every": SLOW["steps"]})
    world.wait("it trains", lambda: world.step("stopped") >= 12)
    world.trainer.send_signal(signal.SIGTERM)
    assert world.trainer.wait(60) == 0
    run = world.client.runs.get("stopped")
    assert (run.state, run.message) == (RunState.QUEUED, "waits for a trainer service")
    assert len(list(world.store.children(run_key("stopped", "checkpoints/")))) == 1
    world.client.runs.cancel("stopped")
    world.trainer = world.start()
    world.client.runs.delete("stopped")


def test_what_can_never_work_fails_at_once(world: World) -> None:
    world.create("wrong", {**SETTINGS, "encoder.name": "no_such_network"})
    run = world.finished("wrong")
    assert (run.state, run.restarts) == (RunState.FAILED, 0)
    assert "no_such_network" in run.error


def test_a_process_that_keeps_dying_is_given_up(world: World) -> None:
    """A checkpoint that is damaged is no wrong setting: it is tried as often as asked."""
    world.create("damaged", SLOW, max_restarts=1)
    world.wait("it trains", lambda: world.step("damaged") >= 12)
    world.client.runs.cancel("damaged")
    world.wait("its process is gone", lambda: not world.processes("damaged"))
    newest = max(
        info.key
        for info in world.store.list(run_key("damaged", "checkpoints/"))
        if info.key.endswith(".safetensors")
    )
    world.store.put(newest, b"torn")
    world.client.runs.resume("damaged")
    run = world.finished("damaged")
    assert (run.state, run.restarts) == (RunState.FAILED, 2)
    assert "is damaged" in run.error


def test_a_run_has_a_deadline(world: World) -> None:
    world.create("late", SLOW, deadline_seconds=12)
    run = world.finished("late")
    assert run.state == RunState.FAILED
    assert "deadline of 12 s" in run.error
    world.wait("its process is gone", lambda: not world.processes("late"))


def test_a_probe_of_a_run(world: World) -> None:
    world.client.runs.probe("probe-killed", "runs/killed", ["digits"])
    run = world.finished("probe-killed")
    assert run.state == RunState.SUCCEEDED, run.error
    assert 0.1 < run.result["probes"]["digits"]["linear"] <= 1
    assert read_spec(world.store, "probe-killed").probe is not None
