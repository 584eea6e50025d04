"""Counts gRPC calls by method and code, under the names that gRPC's Prometheus libraries use elsewhere.

A call is counted when its handler ends, whatever ended it: an answer, an error, a refusal by an interceptor
inside this one, the caller's hanging up or deadline. Names of methods that the server does not have are the
caller's to choose, so they share one label value.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import grpc
from google.protobuf import descriptor_pool
from prometheus_client import Counter, Histogram

from services.rpc.wrapping import wrapped

_LABELS = ("grpc_type", "grpc_service", "grpc_method")
_started = Counter("grpc_server_started_total", "Calls begun.", _LABELS)
_handled = Counter("grpc_server_handled_total", "Calls ended, by status code.", (*_LABELS, "grpc_code"))
_seconds = Histogram(
    "grpc_server_handling_seconds",
    "Time from a call's beginning to its end; of a stream, to the end of the stream.",
    _LABELS,
    buckets=(0.001, 0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300, 1000),
)
_CODES = {code.value[0]: code.name for code in grpc.StatusCode}
_UNKNOWN = ("unary", "unknown", "unknown")
_KINDS = {(False, False): "unary", (True, False): "client_stream", (False, True): "server_stream"}
_Labels = tuple[str, str, str]


class MetricsInterceptor(grpc.aio.ServerInterceptor):
    """Put it first, so that it is outside all others.

    Args:
        services: full names of the services that the server has; their code is loaded already.
    """

    def __init__(self, services: Iterable[str]) -> None:
        self._labels = {f"/{s}/{m}": labels for s in services for m, labels in _methods(s)}
        for labels in self._labels.values():  # there from the start, so that a rate sees the first call
            _started.labels(*labels)
            _handled.labels(*labels, "OK")
            _seconds.labels(*labels)

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        labels = self._labels.get(handler_call_details.method, _UNKNOWN)
        handler = await continuation(handler_call_details)
        if handler is None:  # nobody's method: the server itself answers
            _started.labels(*labels).inc()
            _handled.labels(*labels, grpc.StatusCode.UNIMPLEMENTED.name).inc()
            return None
        return wrapped(handler, partial(_counting, labels))


def _methods(service: str) -> Iterator[tuple[str, _Labels]]:
    for method in descriptor_pool.Default().FindServiceByName(service).methods:
        kind = _KINDS.get((method.client_streaming, method.server_streaming), "bidi_stream")
        yield method.name, (kind, service, method.name)


@asynccontextmanager
async def _counting(labels: _Labels, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
    _started.labels(*labels).inc()
    began = time.monotonic()
    allowed = context.time_remaining()
    code = grpc.StatusCode.UNKNOWN.name  # gRPC's own answer to an exception
    try:
        yield request
        code = _code_of(context)
    except grpc.aio.AbortError:
        code = _code_of(context)
        raise
    except (asyncio.CancelledError, GeneratorExit):
        late = _at_its_deadline(allowed, context.time_remaining())
        code = (grpc.StatusCode.DEADLINE_EXCEEDED if late else grpc.StatusCode.CANCELLED).name
        raise
    finally:
        _seconds.labels(*labels).observe(time.monotonic() - began)
        _handled.labels(*labels, code).inc()


def _at_its_deadline(allowed: float | None, remaining: float | None) -> bool:
    """Whether a call that was cut off with `remaining` seconds of the `allowed` ones ran into its deadline.

    The caller's clock began as many milliseconds earlier as the call took on its way, and whoever gives up at
    the deadline hangs up by that clock. So the last tenth of the time, at most a second, counts as the end.
    """
    return allowed is not None and remaining is not None and remaining <= min(allowed / 10, 1.0)


def _code_of(context: grpc.aio.ServicerContext) -> str:
    code: Any = context.code()  # a number, or what a handler has set
    return code.name if isinstance(code, grpc.StatusCode) else _CODES.get(code or 0, "UNKNOWN")
