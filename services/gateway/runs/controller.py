"""Carries out runs that are jobs of a cluster, in the background: one gateway at a time, under a lock."""

import asyncio
import logging
from types import TracebackType

from prometheus_client import Gauge

from services.process.logs import about
from services.process.loops import forever, surviving
from stablerep.queue.client import Queue
from stablerep.queue.lock import hold
from stablerep.runs.launchers.interface import RunLauncher
from stablerep.runs.records import CreateRecord, active_runs, read_end, read_status
from stablerep.storage.interface import Store

logger = logging.getLogger("stablerep.runs")
POLL_SECONDS = 2.0
_runs = Gauge("stablerep_runs", "Runs that are not over: queued, or with a process that runs.", ["state"])
_restarts = Gauge(
    "stablerep_run_restarts", "How often processes of a run that is not over restarted.", ["run"]
)


class RunController:
    """A block during which runs are started, watched and ended.

    Without a lock two gateways would only do the same twice; every step may be repeated.
    """

    def __init__(self, store: Store, queue: Queue, launcher: RunLauncher, name: str) -> None:
        self._store, self._queue, self._launcher, self._name = store, queue, launcher, name
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> "RunController":
        self._loop = asyncio.create_task(forever("runs", self._round, POLL_SECONDS), name="runs")
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._loop is not None:
            self._loop.cancel()
            await asyncio.gather(self._loop, return_exceptions=True)

    def problem(self) -> str:
        """Says that the loop has ended, for the liveness probe; empty while it runs."""
        return "the loop runs has ended" if self._loop is not None and self._loop.done() else ""

    async def _round(self) -> None:
        await asyncio.to_thread(self._sync_all)

    def _sync_all(self) -> None:
        records = active_runs(self._store)
        self._measure(records)
        mine = [record for record in records if record.spec.launcher == self._name]
        if not mine:
            return
        with hold(self._queue, "sr:runs") as lock:
            for record in mine if lock is not None else ():
                # Errors of one run must not keep others from starting.
                with about(run=record.spec.run), surviving("runs"):
                    self._launcher.sync(record)

    def _measure(self, records: list[CreateRecord]) -> None:
        counts = {"queued": 0, "running": 0}
        restarts = {}
        for record in records:
            if read_end(self._store, record.spec.run) is not None:
                continue
            status = read_status(self._store, record.spec.run)
            counts["running" if status and status.running else "queued"] += 1
            if status and status.restarts:
                restarts[record.spec.run] = status.restarts
        measure_runs(restarts, **counts)


def measure_runs(restarts: dict[str, int], *, queued: int, running: int) -> None:
    """Sets what is exported of runs that are not over."""
    _runs.labels("queued").set(queued)
    _runs.labels("running").set(running)
    _restarts.clear()
    for run, count in restarts.items():
        _restarts.labels(run).set(count)
