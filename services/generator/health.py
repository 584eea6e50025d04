"""The worker's /metrics, /healthz, /readyz: a thread that gets on, a loaded pipeline, a queue in reach."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.generator.worker import Worker
from services.health.http import Probes, serve_probes
from services.health.single_flight import SingleFlightCall
from stablerep.config.settings import Settings
from stablerep.errors import Unavailable
from stablerep.queue.client import Queue


class WorkerChecks:
    """Whether the worker is alive and ready, for HTTP's probes and for gRPC's health."""

    def __init__(self, worker: Worker, queue: Queue) -> None:
        self._worker = worker
        self._queue_answers = SingleFlightCall("the queue server", queue.epoch)

    def alive(self) -> str:
        """Why it should be restarted; empty when it is well."""
        return "" if self._worker.heartbeat.alive else "the worker's thread is stuck or has ended"

    def ready(self) -> str:
        """Why nothing should be sent to it; empty when something may."""
        if self._worker.problem:
            return self._worker.problem
        try:
            self._queue_answers.get()
        except Unavailable as error:
            return str(error)
        return ""


@asynccontextmanager
async def worker_probes(settings: Settings, checks: WorkerChecks) -> AsyncIterator[Probes | None]:
    """Serves them within the block, as `generator.metrics_address` says; without one there are none.

    Raises:
        InvalidInput: the address cannot be listened on.
    """
    probes = serve_probes(
        settings.generator.metrics_address,
        ready=checks.ready,
        alive=checks.alive,
        field="generator.metrics_address",
    )
    try:
        yield probes
    finally:
        if probes is not None:
            await asyncio.to_thread(probes.close)
