"""The gateway process: one gRPC server over a store and a queue, and the planners beside it."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.announce import announce
from services.errors import ErrorInterceptor
from services.gateway.jobs import JobsServicer
from services.gateway.planners import Planners
from stablerep.errors import InvalidInput
from stablerep.jobs.queue import Queue
from stablerep.settings import Settings
from stablerep.storage.store import open_store
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc

logger = logging.getLogger("stablerep.gateway")

_health_aio: Any = vars(health)["aio"]  # type stubs of the health package do not know it
SERVICE = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name
BLOCKING_CALLS = 32
"""Store and queue calls at one time; they wait for servers, not for the processor."""
OPTIONS = [
    # Clients may ping an idle watch every 30 s; the default would take that for an attack and hang up.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.so_reuseport", 0),
]


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set, then ends cleanly: no new calls, planning left at a shard boundary.

    Raises:
        InvalidInput: an address that cannot be listened on, a store URL that cannot work.
    """
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(BLOCKING_CALLS, thread_name_prefix="blocking"))
    store = await asyncio.to_thread(open_store, settings.store_url, s3=settings.s3)
    queue = Queue(settings.redis_url)
    planners = Planners(store, queue, settings.redis_url, threads=settings.gateway.planners)
    server = grpc.aio.server(interceptors=[ErrorInterceptor()], options=OPTIONS)
    servicer = JobsServicer(store, queue, planners, settings.gateway, stop)
    rpc.add_GenerationServiceServicer_to_server(servicer, server)
    states = _health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    reflection.enable_server_reflection((SERVICE, health.SERVICE_NAME, reflection.SERVICE_NAME), server)
    address = _listen(server, settings.gateway.address)
    await server.start()
    try:
        async with planners:
            for name in (SERVICE, health.OVERALL_HEALTH):
                await states.set(name, health_pb2.HealthCheckResponse.SERVING)
            if settings.gateway.announce is not None:
                announce(settings.gateway.announce, address)
            logger.info("serving on %s, store %s", address, store.url)
            await stop.wait()
            await states.enter_graceful_shutdown()
            logger.info("stopping")
    finally:
        await server.stop(settings.gateway.grace_seconds)
        queue.close()


def _listen(server: grpc.aio.Server, address: str) -> str:
    """Binds `address` and returns it with the port that was taken."""
    try:
        port = server.add_insecure_port(address)
    except RuntimeError as error:
        raise InvalidInput(f"cannot listen on {address}: {error}", field="gateway.address") from error
    if not port:
        raise InvalidInput(f"cannot listen on {address}", field="gateway.address")
    return f"{address.rpartition(':')[0]}:{port}"
