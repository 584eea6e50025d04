"""The gateway's /metrics, /healthz, /readyz: the queue in numbers, a loop that runs, servers in reach."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress

from prometheus_client import REGISTRY

from services.gateway.queue_metrics import QueueCollector
from services.health.heartbeat import Heartbeat
from services.health.http import Probes, serve_probes
from services.health.single_flight import SingleFlightCall
from stablerep.config.settings import Settings
from stablerep.queue.client import Queue
from stablerep.storage.interface import Store

STUCK_SECONDS = 30.0
"""An event loop that did not come round for so long is stuck; every call waits on it."""
_ANY_KEY = "datasets/.ready"  # nobody's object: only whether the store answers matters


@asynccontextmanager
async def gateway_probes(
    settings: Settings,
    store: Store,
    queue: Queue,
    problems: Sequence[Callable[[], str]],
    stop: asyncio.Event,
) -> AsyncIterator[Probes | None]:
    """Serves them within the block, as `gateway.metrics_address` says; without one there are none.

    Args:
        problems: each names what keeps a loop of the process from running; empty texts: nothing.
    Raises:
        InvalidInput: the address cannot be listened on.
    """
    heartbeat = Heartbeat(STUCK_SECONDS)
    store_answers: SingleFlightCall[object] = SingleFlightCall("the store", lambda: store.exists(_ANY_KEY))
    queue_answers = SingleFlightCall("the queue server", queue.epoch)

    def alive() -> str:
        if not heartbeat.alive:
            return f"the event loop stood still for {STUCK_SECONDS:g} s"
        return next((text for problem in problems if (text := problem())), "")

    def ready() -> str:
        store_answers.get()
        queue_answers.get()
        return "stopping" if stop.is_set() else ""

    probes = serve_probes(
        settings.gateway.metrics_address, ready=ready, alive=alive, field="gateway.metrics_address"
    )
    if probes is None:
        yield None
        return
    collector = QueueCollector(queue.stats, store_answers)
    REGISTRY.register(collector)
    beating = asyncio.create_task(_beat(heartbeat))
    try:
        yield probes
    finally:
        beating.cancel()
        with suppress(asyncio.CancelledError):
            await beating
        REGISTRY.unregister(collector)
        await asyncio.to_thread(probes.close)


async def _beat(heartbeat: Heartbeat) -> None:
    while True:
        heartbeat.beat()
        await asyncio.sleep(1)
