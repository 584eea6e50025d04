"""`GeneratorService`: previews, status and drain of one worker, and the process around it."""

import asyncio
import logging
import signal
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.announce import announce
from services.errors import ErrorInterceptor
from services.generator.previews import Preview
from services.generator.worker import Worker
from stablerep.errors import InvalidInput
from stablerep.jobs.queue import Queue
from stablerep.jobs.recipe import load_preset
from stablerep.settings import Settings
from stablerep.storage import open_store
from stablerep.v1 import generator_pb2 as pb
from stablerep.v1 import generator_pb2_grpc as rpc

logger = logging.getLogger("stablerep.generator")

_health_aio: Any = vars(health)["aio"]  # type stubs of the health package do not know it
SERVICE = pb.DESCRIPTOR.services_by_name["GeneratorService"].full_name
DEFAULT_PRESET = "sd15"
MOST_CAPTION_CHARACTERS = 1000
OPTIONS = [("grpc.max_send_message_length", 64 << 20), ("grpc.so_reuseport", 0)]
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
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=OPTIONS)
    rpc.add_GeneratorServiceServicer_to_server(GeneratorServicer(worker), server)
    states = _health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = _listen(server, settings.generator.address)
    await server.start()
    _drain_on_signals(worker, settings.generator.grace_seconds)
    for name in (SERVICE, health.OVERALL_HEALTH):
        await states.set(name, health_pb2.HealthCheckResponse.SERVING)
    if settings.generator.announce is not None:
        announce(settings.generator.announce, address)
    logger.info("%s serving on %s, store %s", worker.name, address, store.url)
    try:
        await _work(worker, states)
    finally:
        await server.stop(1.0)
        queue.close()


async def _work(worker: Worker, states: Any) -> None:
    """Runs the worker in its one thread; health says NOT_SERVING from the order to drain on."""
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(1, thread_name_prefix="gpu") as gpu:
        running = loop.run_in_executor(gpu, worker.run)
        ordered = asyncio.create_task(_ordered(worker))
        try:
            await asyncio.wait({running, ordered}, return_when=asyncio.FIRST_COMPLETED)
            await states.enter_graceful_shutdown()
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


def _listen(server: grpc.aio.Server, address: str) -> str:
    """Binds `address` and returns it with the port that was taken."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise InvalidInput(f"cannot listen on {address}: {error}", field="generator.address") from error
    if not port:
        raise InvalidInput(f"cannot listen on {address}", field="generator.address")
    return f"{address.rpartition(':')[0]}:{port}"
