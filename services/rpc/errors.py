"""Errors as gRPC statuses: what was raised on purpose says what was wrong, the rest a number to find it by.

Details follow AIP-193: BadRequest names the field of an invalid argument, ErrorInfo carries reason and field.
"""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any
from uuid import uuid4

import grpc
import redis.exceptions
from google.protobuf.any_pb2 import Any as AnyMessage
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from services.rpc.decoding import decoded, tolerant
from services.rpc.wrapping import wrapped
from stablerep.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    PermissionDenied,
    StableRepError,
    StoreError,
    TornObject,
    Unauthenticated,
    Unavailable,
    WrongState,
)

logger = logging.getLogger("stablerep.grpc")
_PACKAGE = "/stablerep."
_LONGEST_TEXT = 1200
"""Bytes; it goes three times, and clients take 8 KiB of trailing metadata."""
_CODES: tuple[tuple[type[BaseException], grpc.StatusCode], ...] = (
    (WrongState, grpc.StatusCode.FAILED_PRECONDITION),
    (InvalidInput, grpc.StatusCode.INVALID_ARGUMENT),
    (NotFound, grpc.StatusCode.NOT_FOUND),
    (AlreadyExists, grpc.StatusCode.ALREADY_EXISTS),
    (TornObject, grpc.StatusCode.DATA_LOSS),
    (StoreError, grpc.StatusCode.UNAVAILABLE),
    (Unauthenticated, grpc.StatusCode.UNAUTHENTICATED),
    (PermissionDenied, grpc.StatusCode.PERMISSION_DENIED),
    (Unavailable, grpc.StatusCode.UNAVAILABLE),
)
_QUEUE_AWAY = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError)


class WrongOffset(InvalidInput):
    """A piece of an upload does not begin where the stored bytes end; `stored` is where it should."""

    def __init__(self, message: str, *, stored: int) -> None:
        super().__init__(message, field="offset")
        self.stored = stored


class NotReady(InvalidInput):
    """The request is right, but what it needs is not complete yet."""


class ErrorInterceptor(grpc.aio.ServerInterceptor):
    """Wraps every method of our services; health and reflection have errors of their own."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or not method.startswith(_PACKAGE):
            return handler
        handler = handler._replace(request_deserializer=tolerant(handler.request_deserializer))
        return wrapped(handler, partial(_statuses, method))


@asynccontextmanager
async def _statuses(method: str, request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
    """Ends the call with the status of whatever is raised inside."""
    try:
        yield decoded(request)
    except grpc.aio.AbortError:
        raise
    except (StableRepError, *_QUEUE_AWAY) as error:
        code, text, details = to_status(error)
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DATA_LOSS):
            logger.warning("%s: %s", method, text)
        await context.abort(code, text, details)
    except Exception:
        number = uuid4().hex[:12]
        logger.exception("%s failed, number %s", method, number)
        await context.abort(
            grpc.StatusCode.INTERNAL, f"something went wrong in the service; its log has it under {number}"
        )


def to_status(error: Exception) -> tuple[grpc.StatusCode, str, tuple[tuple[str, bytes], ...]]:
    """Code, text and trailing metadata of an error that was raised on purpose."""
    if isinstance(error, _QUEUE_AWAY):
        error = Unavailable(f"the queue server does not answer: {error}")
    code, text = _code(error), _bounded(str(error))
    status = status_pb2.Status(code=code.value[0], message=text)
    field = str(getattr(error, "field", ""))
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        violation = error_details_pb2.BadRequest.FieldViolation(field=field, description=text)
        _add(status, error_details_pb2.BadRequest(field_violations=[violation]))
    facts = {"field": field} if field else {}
    if isinstance(error, WrongOffset):
        facts["stored"] = str(error.stored)
    _add(status, error_details_pb2.ErrorInfo(reason=code.name, domain="stablerep", metadata=facts))
    return code, text, (("grpc-status-details-bin", status.SerializeToString()),)


def _bounded(text: str) -> str:
    """A text that repeats much of a request must not be too large for a client to receive."""
    if len(text.encode(errors="replace")) <= _LONGEST_TEXT:
        return text
    return text.encode(errors="replace")[:_LONGEST_TEXT].decode(errors="ignore") + "..."


def _code(error: Exception) -> grpc.StatusCode:
    if isinstance(error, WrongOffset):
        return grpc.StatusCode.OUT_OF_RANGE
    if isinstance(error, NotReady):
        return grpc.StatusCode.FAILED_PRECONDITION
    return next((code for kind, code in _CODES if isinstance(error, kind)), grpc.StatusCode.UNKNOWN)


def _add(status: Any, detail: Any) -> None:
    packed = AnyMessage()
    packed.Pack(detail)
    status.details.append(packed)
