"""One gRPC server as every process of ours runs it: interceptors, health, reflection, where it listens."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection

from services.errors import ErrorInterceptor
from services.grpc_metrics import MetricsInterceptor
from stablerep.errors import InvalidInput
from stablerep.settings import Settings

_health_aio: Any = vars(health)["aio"]  # type stubs of the health package do not know it
Options = Sequence[tuple[str, int | str]]


@dataclass(frozen=True)
class Front:
    """A server whose services are still to be added, and the health it reports."""

    server: grpc.aio.Server
    service: str
    health: Any

    async def set_serving(self) -> None:
        """Health says SERVING from now on, of the process and of its service."""
        for name in (self.service, health.OVERALL_HEALTH):
            await self.health.set(name, health_pb2.HealthCheckResponse.SERVING)

    async def set_stopping(self) -> None:
        """Health says NOT_SERVING from now on, so that nothing new is sent here."""
        await self.health.enter_graceful_shutdown()


def open_front(settings: Settings, service: str, options: Options) -> Front:
    """A server with our interceptors, health and reflection; `service` is its full name in the protos."""
    services = (service, health.SERVICE_NAME, reflection.SERVICE_NAME)
    interceptors = [MetricsInterceptor(services), ErrorInterceptor()]
    server = grpc.aio.server(interceptors=interceptors, options=[*options, ("grpc.so_reuseport", 0)])
    states = _health_aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(states, server)
    reflection.enable_server_reflection(services, server)
    return Front(server, service, states)


def listen(front: Front, settings: Settings, address: str, *, field: str) -> str:
    """Binds `address` and returns it with the port that was taken.

    Raises:
        InvalidInput: it cannot be listened on; `field` is the setting that says so.
    """
    try:
        port = front.server.add_insecure_port(address)
    except RuntimeError as error:
        raise InvalidInput(f"cannot listen on {address}: {error}", field=field) from error
    if not port:
        raise InvalidInput(f"cannot listen on {address}", field=field)
    return f"{address.rpartition(':')[0]}:{port}"
