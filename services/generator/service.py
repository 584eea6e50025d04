"""`GeneratorService`: previews, status and drain of one worker, and the process around it."""

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor

import grpc

from services.announce import announce
from services.generator.previews import Preview
from services.generator.probes import worker_probes
from services.generator.worker import Worker
from services.serving import Front, listen, open_front
from stablerep.errors import InvalidInput
from stablerep.jobs.queue import Queue
from stablerep.jobs.recipe import load_preset
from stablerep.settings import Settings
from stablerep.storage import open_store
from stablerep.v1 import generator_pb2 as pb
from stablerep.v1 import generator_pb2_grpc as rpc

logger = logging.getLogger("stablerep.generator")

SERVICE = pb.DESCRIPTOR.services_by_name["GeneratorService"].full_name
DEFAULT_PRESET = "sd15"
MOST_CAPTION_CHARACTERS = 1000
OPTIONS = [("grpc.max_send_message_length", 64 << 20)]
"""A preview's answer holds all images of a group."""


class GeneratorServicer(rpc.GeneratorServiceServicer):
    """Answers from the event loop; the worker's thread does what takes time."""

    def __init__(self, worker: Worker) -> None:
        self._worker = worker

    async def PreviewGroup(
        self, request: pb.PreviewGroupRequest, context: grpc.aio.ServicerContext
    ) -> pb.PreviewGroupResponse:
        """One group, made between the worker's batches, or its shards if it needs another pipeline."""
        if not request.caption.strip():
            raise InvalidInput("is empty", field="caption")
        if len(request.caption) > MOST_CAPTION_CHARACTERS:
            raise InvalidInput(
                f"{len(request.caption)} characters, {MOST_CAPTION_CHARACTERS} are allowed",
                field="caption",
            )
        recipe = load_preset(request.preset or DEFAULT_PRESET, request.recipe).recipe
        waiting = self._worker.previews.add(Preview(request.caption, recipe, request.seed))
        group = await asyncio.wrap_future(waiting)
        return pb.PreviewGroupResponse(images=group.encoded, recipe_digest=recipe.digest)

    async def GetStatus(
        self, request: pb.GetStatusRequest, context: grpc.aio.ServicerContext
    ) -> pb.GeneratorStatus:
        """What the worker does now."""
        return self._status()

    async def Drain(self, request: pb.DrainRequest, context: grpc.aio.ServicerContext) -> pb.GeneratorStatus:
        """The shard in hand is finished, then the process ends."""
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
        InvalidInput: an address that cannot be listened on, a store URL or queue URL that cannot work.
    """
    store = await asyncio.to_thread(open_store, settings.store_url, s3=settings.s3)
    queue = Queue(settings.redis_url)
    worker = Worker(store, queue, settings.generator)
    front = open_front(settings, SERVICE, OPTIONS)
    rpc.add_GeneratorServiceServicer_to_server(GeneratorServicer(worker), front.server)
    address = listen(front, settings, settings.generator.address, field="generator.address")
    await front.server.start()
    _drain_on_signals(worker, settings.generator.grace_seconds)
    try:
        async with worker_probes(settings, worker, queue) as probes:
            await front.set_serving()
            if settings.generator.announce is not None:
                announce(settings.generator.announce, address, probes.address if probes else "")
            logger.info("%s serving on %s, store %s", worker.name, address, store.url)
            await _work(worker, front)
    finally:
        await front.server.stop(1.0)
        queue.close()


async def _work(worker: Worker, front: Front) -> None:
    """Runs the worker in its one thread; health says NOT_SERVING from the order to drain on."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="gpu") as gpu:
        running = loop.run_in_executor(gpu, worker.run)
        ordered = asyncio.create_task(_ordered(worker))
        try:
            await asyncio.wait({running, ordered}, return_when=asyncio.FIRST_COMPLETED)
            await front.set_stopping()
            await running
        finally:
            ordered.cancel()


async def _ordered(worker: Worker) -> None:
    while not worker.drain.ordered:
        await asyncio.sleep(0.1)


def _drain_on_signals(worker: Worker, grace_seconds: float) -> None:
    graces = iter([grace_seconds])

    def drain() -> None:
        worker.drain.order(next(graces, 0.0))

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, drain)
