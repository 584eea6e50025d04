"""The worker's /metrics, /healthz, /readyz: a thread that gets on, a loaded pipeline, a queue in reach."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from services.fresh import Fresh
from services.generator.worker import Worker
from services.probes_http import Probes, serve_probes
from stablerep.jobs.queue import Queue
from stablerep.settings import Settings


@asynccontextmanager
async def worker_probes(settings: Settings, worker: Worker, queue: Queue) -> AsyncIterator[Probes | None]:
    """Serves them within the block, as `generator.metrics_address` says; without one there are none.

    Raises:
        InvalidInput: the address cannot be listened on.
    """
    queue_answers = Fresh("the queue server", queue.epoch)

    def alive() -> str:
        return "" if worker.heartbeat.alive else "the worker's thread is stuck or has ended"

    def ready() -> str:
        status = worker.status
        if worker.drain.ordered:
            return "stopping"
        if status.state == "LOADING":
            return "the pipeline is being loaded"
        if settings.generator.preload and not status.recipe_digest:
            return f"the pipeline of {settings.generator.preload} is not loaded yet"
        queue_answers.get()
        return ""

    probes = serve_probes(
        settings.generator.metrics_address, ready=ready, alive=alive, field="generator.metrics_address"
    )
    try:
        yield probes
    finally:
        if probes is not None:
            await asyncio.to_thread(probes.close)
