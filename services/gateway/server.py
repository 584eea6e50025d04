"""The gateway process: one gRPC server over store and queue, planners and the runs' launcher beside it."""

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor

from services.gateway.background import Planners
from services.gateway.health import gateway_probes
from services.gateway.jobs import JobsServicer
from services.gateway.runs.controller import RunController
from services.gateway.runs.service import RunsServicer
from services.gateway.source_urls import remote_sources
from services.process.address_file import write_address_file
from services.rpc.server import listen, open_server
from stablerep.config.settings import Settings
from stablerep.queue.client import Queue
from stablerep.runs.launchers.open import open_launcher
from stablerep.storage.open import open_store
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc
from stablerep.v1 import training_pb2, training_pb2_grpc

logger = logging.getLogger("stablerep.gateway")

SERVICES = (
    pb.DESCRIPTOR.services_by_name["GenerationService"].full_name,
    training_pb2.DESCRIPTOR.services_by_name["TrainingService"].full_name,
)
BLOCKING_CALLS = 32
"""Store and queue calls at one time; they wait for servers, not for the processor."""
OPTIONS = [
    # Clients may ping an idle watch every 30 s; the default would take that for an attack and hang up.
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 60_000),
    ("grpc.keepalive_timeout_ms", 20_000),
]


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set, then ends cleanly: no new calls, planning left at a shard boundary.

    Raises:
        InvalidInput: an address that cannot be listened on, a store URL or a source URL that cannot work.
    """
    loop = asyncio.get_running_loop()
    loop.set_default_executor(ThreadPoolExecutor(BLOCKING_CALLS, thread_name_prefix="blocking"))
    store = await asyncio.to_thread(open_store, settings.store_url, s3=settings.s3)
    remote = remote_sources(settings)
    queue = Queue(settings.redis_url)
    planners = Planners(store, queue, threads=settings.gateway.planners, remote=remote)
    launcher = await asyncio.to_thread(open_launcher, settings, store)
    runs = RunController(store, queue, launcher, settings.gateway.launcher)
    front = open_server(settings, SERVICES, OPTIONS)
    servicer = JobsServicer(store, queue, planners, settings.gateway, stop, remote)
    rpc.add_GenerationServiceServicer_to_server(servicer, front.server)
    runs_servicer = RunsServicer(store, launcher, settings.gateway, stop)
    training_pb2_grpc.add_TrainingServiceServicer_to_server(runs_servicer, front.server)
    address = listen(front, settings, settings.gateway.address, field="gateway.address")
    await front.server.start()
    try:
        problems = (planners.problem, runs.problem)
        async with gateway_probes(settings, store, queue, problems, stop) as probes, planners, runs:
            await front.set_serving()
            write_address_file(settings.gateway.announce, address, probes.address if probes else "")
            logger.info("serving on %s, store %s", address, store.url)
            await stop.wait()
            await front.set_stopping()
            logger.info("stopping")
    finally:
        await front.server.stop(settings.gateway.grace_seconds)
        queue.close()
