"""Both gRPC servers of the service in this process, on real sockets: quick to start, with every setting."""

import asyncio
import json
import threading
import time
from collections.abc import Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from services.gateway.server import serve as serve_gateway
from services.generator.service import SERVICE as WORKER_SERVICE
from services.generator.service import GeneratorServicer
from services.generator.worker import Worker
from services.rpc.server import listen, open_server
from stablerep.config.settings import Auth, GatewaySettings, GeneratorSettings, Settings, Tls
from stablerep.queue.client import Queue
from stablerep.storage import open_store
from stablerep.v1 import generator_pb2_grpc as rpc

START_SECONDS = 60.0


@dataclass(frozen=True)
class Fronts:
    """Where the two are served, and the worker, which draws nothing: its thread is not started."""

    gateway: str
    worker: str


@contextmanager
def served(
    folder: Path, redis_url: str, *, auth: Auth | None = None, tls: Tls | None = None, models: str = ""
) -> Iterator[Fronts]:
    """Serves gateway and worker over `folder` within the block."""
    announced = folder / "gateway.json"
    announced.unlink(missing_ok=True)
    gateway = GatewaySettings(address="127.0.0.1:0", announce=announced, grace_seconds=0.1)
    settings = Settings(
        store_url=(folder / "store").as_uri(),
        redis_url=redis_url,
        auth=auth or Auth(),
        tls=tls or Tls(),
        gateway=gateway.model_copy(update={"models": tuple(models.split(","))} if models else {}),
        generator=GeneratorSettings(address="127.0.0.1:0", device="cpu"),
    )
    worker: Future[str] = Future()
    stop: Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]] = Future()
    thread = threading.Thread(target=lambda: asyncio.run(_serve(settings, worker, stop)), daemon=True)
    thread.start()
    loop, event = stop.result(START_SECONDS)
    try:
        address = worker.result(START_SECONDS)
        deadline = time.monotonic() + START_SECONDS
        while not announced.exists():
            assert time.monotonic() < deadline
            assert thread.is_alive()
            time.sleep(0.01)
        yield Fronts(json.loads(announced.read_text())["address"], address)
    finally:
        loop.call_soon_threadsafe(event.set)
        thread.join(20)


async def _serve(
    settings: Settings,
    address: "Future[str]",
    stop: "Future[tuple[asyncio.AbstractEventLoop, asyncio.Event]]",
) -> None:
    event = asyncio.Event()
    stop.set_result((asyncio.get_running_loop(), event))
    try:
        await asyncio.gather(serve_gateway(settings, event), _serve_worker(settings, address, event))
    except BaseException as error:  # noqa: BLE001  # the test is to see it, whatever it is
        if not address.done():
            address.set_exception(error)
        event.set()


async def _serve_worker(settings: Settings, address: "Future[str]", stop: asyncio.Event) -> None:
    queue = Queue(settings.redis_url)
    worker = Worker(open_store(settings.store_url), queue, settings.generator)
    front = open_server(settings, [WORKER_SERVICE], [])
    rpc.add_GeneratorServiceServicer_to_server(
        GeneratorServicer(worker, settings.gateway.models), front.server
    )
    address.set_result(listen(front, settings, settings.generator.address, field="generator.address"))
    await front.server.start()
    await front.set_serving()
    await stop.wait()
    await front.server.stop(0.1)
    queue.close()
