"""The console's process: the application behind uvicorn, on a socket that is bound before anything else."""

import asyncio
import contextlib
import logging
import socket

import uvicorn

from services.console.app import LOOPBACK_NAMES, build_app
from services.console.context import Console
from services.console.datasets import Datasets
from services.console.pages import Renderer
from services.console.sessions import Sessions
from services.console.visitors import Visitors
from services.process.address_file import write_address_file
from services.rpc.callers import is_loopback
from stablerep.client import AsyncClient
from stablerep.client.environment import tls_from_environment
from stablerep.config.address import check_address
from stablerep.config.settings import Settings
from stablerep.errors import InvalidInput
from stablerep.storage.open import open_store

logger = logging.getLogger("stablerep.console")

GRACE_SECONDS = 3


class _Server(uvicorn.Server):
    """Leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self):  # type: ignore[no-untyped-def]
        yield


async def serve(settings: Settings, stop: asyncio.Event) -> None:
    """Serves until `stop` is set.

    Raises:
        InvalidInput: an address that cannot be listened on, a key or a store URL that cannot work.
    """
    own = settings.console
    check_address(own.address, field="console.address", listening=True)
    check_address(own.gateway, field="console.gateway")
    if own.prefix and (not own.prefix.startswith("/") or own.prefix.endswith("/")):
        raise InvalidInput("begins with / and does not end with it", field="console.prefix")
    tls = tls_from_environment()

    def connect(token: str | None) -> AsyncClient:
        return AsyncClient(own.gateway, token, **tls)

    loopback = is_loopback(own.address)
    visitors = Visitors(Sessions(own.key_file, own.prefix), connect, anonymous=own.anonymous or loopback)
    store = await asyncio.to_thread(open_store, settings.store_url, s3=settings.s3)
    console = Console(settings, store, visitors, Renderer(own.prefix), Datasets(store))
    app = build_app(console, hosts=own.hosts or (LOOPBACK_NAMES if loopback else ()))
    with _bound(own.address) as listening:
        address = f"{own.address.rpartition(':')[0]}:{listening.getsockname()[1]}"
        config = uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=True,
            timeout_graceful_shutdown=GRACE_SECONDS,
            lifespan="on",
        )
        server = _Server(config)
        running = asyncio.create_task(server.serve([listening]))
        stopping = asyncio.create_task(stop.wait())
        while not server.started and not running.done():
            await asyncio.sleep(0.01)
        write_address_file(own.announce, address)
        logger.info(
            "serving on http://%s%s, gateway %s, store %s", address, own.prefix, own.gateway, store.url
        )
        await asyncio.wait({running, stopping}, return_when=asyncio.FIRST_COMPLETED)
        server.should_exit = True
        await running
        stopping.cancel()


@contextlib.contextmanager
def _bound(address: str):  # type: ignore[no-untyped-def]
    host, _, port = address.rpartition(":")
    host = host.strip("[]")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, for asyncio sends at once only on sockets that are.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, int(port)))
        yield listening
    except OSError as error:
        raise InvalidInput(
            f"cannot listen on {address}: {error.strerror}", field="console.address"
        ) from error
    finally:
        listening.close()
