"""`GeneratorService`: previews, status and drain of one worker, and the process around it."""

import asyncio
import contextlib
import logging
import os
import signal
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import grpc
from grpc_health.v1 import health, health_pb2

from services.generator.health import WorkerChecks, worker_probes
from services.generator.previews import Preview
from services.generator.reporting import Reporter
from services.generator.worker import Worker
from services.process.address_file import write_address_file
from services.process.loops import surviving
from services.rpc.recipes import requested_recipe
from services.rpc.server import RpcServer, listen, open_server
from stablerep.config.settings import Settings
from stablerep.errors import InvalidInput
from stablerep.queue.client import Queue
from stablerep.shards.tar import MAX_CAPTION_ID
from stablerep.storage import open_store
from stablerep.v1 import generator_pb2 as pb
from stablerep.v1 import generator_pb2_grpc as rpc

logger = logging.getLogger("stablerep.generator")

SERVICE = pb.DESCRIPTOR.services_by_name["GeneratorService"].full_name
MAX_CAPTION_CHARACTERS = 1000
READINESS_SECONDS = 0.5
HAND_BACK_SECONDS = 2.0
"""For the queue server to take the leases back of a worker that is cut off."""
OPTIONS = [("grpc.max_send_message_length", 64 << 20)]
"""A preview's answer holds all images of a group."""
MAX_PIXELS = 64_000_000
"""In one answer: even noise fits at a byte a pixel."""


class GeneratorServicer(rpc.GeneratorServiceServicer):
    """Answers from the event loop; the worker's thread does what takes time.

    Args:
        models: those that a preview may name, the setting `gateway.models` of the whole service.
    """

    def __init__(self, worker: Worker, models: Sequence[str]) -> None:
        self._worker = worker
        self._models = models

    async def PreviewGroup(
        self, request: pb.PreviewGroupRequest, context: grpc.aio.ServicerContext
    ) -> pb.PreviewGroupResponse:
        """One group, made between the worker's batches, or its shards if it needs another pipeline."""
        if not request.caption.strip():
            raise InvalidInput("is empty", field="caption")
        if len(request.caption) > MAX_CAPTION_CHARACTERS:
            raise InvalidInput(
                f"{len(request.caption)} characters, {MAX_CAPTION_CHARACTERS} are allowed",
                field="caption",
            )
        recipe = requested_recipe(request.preset, request.recipe, self._models)
        if recipe.images_per_caption * recipe.save_size**2 > MAX_PIXELS:
            text = f"a preview holds at most {MAX_PIXELS:,} pixels; make fewer images, or save smaller ones"
            raise InvalidInput(text, field="images_per_caption")
        if not 0 <= request.caption_id < MAX_CAPTION_ID:
            raise InvalidInput(f"is not in 0..{MAX_CAPTION_ID - 1}", field="caption_id")
        preview = Preview(request.caption, recipe, request.seed, request.caption_id)
        waiting = self._worker.previews.add(preview)
        group = await asyncio.wrap_future(waiting)
        return pb.PreviewGroupResponse(images=group.encoded, recipe_digest=recipe.digest)

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> pb.GeneratorStatus:
        """What the worker does now."""
        return self._status()

    async def Drain(self, request: pb.DrainRequest, context: grpc.aio.ServicerContext) -> pb.GeneratorStatus:
        """Leased shards are finished, then the process ends."""
        self._worker.drain.order()
        return self._status()

    def _status(self) -> pb.GeneratorStatus:
        status = self._worker.status
        state = "DRAINING" if self._worker.drain.ordered else status.state
        return pb.GeneratorStatus(
            worker=self._worker.name,
            state=state,
            shard=status.shard,
            shards_done=status.shards_done,
            images_done=status.images_done,
            recipe_digest=status.recipe_digest,
        )


async def serve(settings: Settings) -> None:
    """Works and serves until SIGTERM, SIGINT or a Drain call; a second signal cuts the grace short.

    Raises:
        InvalidInput: an address that cannot be listened on, a store URL, queue URL, device or preset to
            preload that cannot work.
    """
    store = await asyncio.to_thread(open_store, settings.store_url, s3=settings.s3)
    queue = Queue(settings.redis_url, retry_seconds=settings.generator.retry_seconds)
    worker = Worker(store, queue, settings.generator)
    checks = WorkerChecks(worker, queue)
    front = open_server(settings, [SERVICE], OPTIONS)
    rpc.add_GeneratorServiceServicer_to_server(
        GeneratorServicer(worker, settings.gateway.models), front.server
    )
    address = listen(front, settings, settings.generator.address, field="generator.address")
    await _set_health(front, health_pb2.HealthCheckResponse.NOT_SERVING)
    await front.server.start()
    _drain_on_signals(worker, settings.generator.grace_seconds)
    try:
        async with worker_probes(settings, checks) as probes:
            file, metrics_address = settings.generator.announce, probes.address if probes else ""
            announce = partial(write_address_file, file, address, metrics_address)
            announce(worked=False)
            worker.on_first_work(partial(announce, worked=True))
            logger.info("%s serving on %s, store %s", worker.name, address, store.url)
            reporter = await asyncio.to_thread(Reporter, worker, queue, address, settings.generator.device)
            await _work(worker, checks, front, reporter)
    finally:
        await front.server.stop(1.0)
        queue.close()


async def _work(worker: Worker, checks: WorkerChecks, front: RpcServer, reporter: Reporter) -> None:
    """Runs the worker in its one thread; health follows its readiness until the order to drain."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="gpu") as gpu:
        running = loop.run_in_executor(gpu, worker.run)
        following = asyncio.create_task(_follow_readiness(worker, checks, front, reporter))
        try:
            await asyncio.wait({running, following}, return_when=asyncio.FIRST_COMPLETED)
            await front.set_stopping()
            await _finish(running, worker, front)
        finally:
            following.cancel()


async def _follow_readiness(
    worker: Worker, checks: WorkerChecks, front: RpcServer, reporter: Reporter
) -> None:
    """Until the order to drain; asks and reports in a thread, for the queue server may take its time."""
    states = health_pb2.HealthCheckResponse
    reported = states.NOT_SERVING
    asked = float("-inf")
    while not worker.drain.ordered:
        if time.monotonic() - asked > READINESS_SECONDS:
            asked = time.monotonic()
            with surviving("readiness"):
                state = states.NOT_SERVING if await asyncio.to_thread(checks.ready) else states.SERVING
                if state != reported and not worker.drain.ordered:
                    await _set_health(front, state)
                    reported = state
                await asyncio.to_thread(reporter.report)
        await asyncio.sleep(0.1)


async def _set_health(front: RpcServer, state: int) -> None:
    for name in (*front.services, health.OVERALL_HEALTH):
        await front.health.set(name, state)


async def _finish(running: "asyncio.Future[None]", worker: Worker, front: RpcServer) -> None:
    """Waits for the worker's end, or makes one when its grace is over: what hangs must not keep leases."""
    while not running.done():
        if worker.overdue:
            logger.warning("the worker is cut off: it would not end in time")
            worker.previews.close()
            await front.server.stop(0.2)
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(asyncio.to_thread(worker.abandon), HAND_BACK_SECONDS)
            logging.shutdown()
            # A pipeline being loaded, a kernel or a store that hangs cannot be interrupted.
            os._exit(1 if worker.crashed else 0)
        await asyncio.wait({running}, timeout=0.1)
    await running


def _drain_on_signals(worker: Worker, grace_seconds: float) -> None:
    graces = iter([grace_seconds])

    def drain() -> None:
        worker.drain.order(next(graces, 0.0))

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, drain)
