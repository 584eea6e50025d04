"""One gRPC server as every process of ours runs it: who may call, limits, health, reflection, its address."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.process.logs import CallNames
from services.rpc.auth import AuthInterceptor
from services.rpc.callers import is_loopback, read_callers
from services.rpc.errors import ErrorInterceptor
from services.rpc.metrics import MetricsInterceptor
from services.rpc.tls import server_credentials
from stablerep.config.address import check_address
from stablerep.config.settings import Settings
from stablerep.errors import InvalidInput

_health_aio: Any = vars(health)["aio"]  # type stubs of the health package do not know it
Options = Sequence[tuple[str, int | str]]
logger = logging.getLogger("stablerep.serving")

MAX_CALLS = 4096
"""Calls in work at one time, watches and refused ones included; more are RESOURCE_EXHAUSTED."""
LIMITS: Options = [
    ("grpc.max_receive_message_length", 4 << 20),
    ("grpc.max_concurrent_streams", 256),  # of one connection; a client's further calls wait for their turn
    ("grpc.max_metadata_size", 8 << 10),
    ("grpc.absolute_max_metadata_size", 16 << 10),
]


@dataclass(frozen=True)
class RpcServer:
    """A server whose services are still to be added, and the health it reports."""

    server: grpc.aio.Server
    services: tuple[str, ...]
    health: Any
    auth: AuthInterceptor

    async def set_serving(self) -> None:
        """Health says SERVING from now on, of the process and of its services."""
        for name in (*self.services, health.OVERALL_HEALTH):
            await self.health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def set_stopping(self) -> None:
        """Health says NOT_SERVING from now on, so that nothing new is sent here."""
        await self.health.enter_graceful_shutdown()


def open_server(settings: Settings, own: Sequence[str], options: Options) -> RpcServer:
    """A server with our interceptors, health and reflection; `own`: its services' full names in the protos.

    It rejects every call but those for its health until `listen` has read who may call.
    """
    services = (*own, health.SERVICE_NAME, reflection.SERVICE_NAME)
    auth = AuthInterceptor()
    server = grpc.aio.server(
        interceptors=[MetricsInterceptor(services), CallNames(), auth, ErrorInterceptor()],
        options=[*LIMITS, *options, ("grpc.so_reuseport", 0)],
        maximum_concurrent_rpcs=MAX_CALLS,
    )
    states = _health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    reflection.enable_server_reflection(services, server)
    return RpcServer(server, tuple(own), states, auth)


def listen(front: RpcServer, settings: Settings, address: str, *, field: str) -> str:
    """Binds `address`, by TLS where a certificate is set, and returns it with the port that was taken.

    Raises:
        InvalidInput: it cannot be listened on, or everybody could come in there; `field` is the setting that
            says so. Or tokens or certificates cannot be used.
    """
    check_address(address, field=field, listening=True)
    front.auth.admit(read_callers(settings.auth, address, field=field))
    credentials = server_credentials(settings.tls)
    try:
        if credentials is None:
            port = front.server.add_insecure_port(address)
        else:
            port = front.server.add_secure_port(address, credentials)
    except RuntimeError as error:
        raise InvalidInput(f"cannot listen on {address}: {error}", field=field) from error
    if not port:
        raise InvalidInput(f"cannot listen on {address}", field=field)
    if credentials is None and settings.auth.tokens_file and not is_loopback(address):
        logger.warning(
            "%s is served in clear text: tokens can be read on the way; set tls.cert_file", address
        )
    return f"{address.rpartition(':')[0]}:{port}"
