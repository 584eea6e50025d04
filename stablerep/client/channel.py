"""How clients speak gRPC: channel options, the retry of UNAVAILABLE alone, statuses back into our errors."""

import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import grpc
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]

from stablerep.errors import (
    AlreadyExists,
    DeadlineExceeded,
    InvalidInput,
    NotFound,
    PermissionDenied,
    StableRepError,
    TornObject,
    Unauthenticated,
    Unavailable,
    WrongState,
)

UNARY_SECONDS = 30.0
"""Deadline of calls that only ask."""
DELETE_SECONDS = 600.0
"""Deadline of a deletion: a large dataset has millions of objects."""
PREVIEW_SECONDS = 600.0
"""Deadline of a preview: the worker may first have to load its pipeline."""
RECONNECTS = 8
"""Attempts in a row of an upload or a watch that lost its gateway; with `pause` about 20 s."""

_RETRIED = (
    (
        "stablerep.v1.GenerationService",
        (
            "GetUpload",
            "CreateJob",
            "GetJob",
            "ListJobs",
            "CancelJob",
            "PauseJob",
            "ResumeJob",
            "RetryJob",
            "DeleteJob",
            "ListShards",
        ),
    ),
    (
        "stablerep.v1.TrainingService",
        ("CreateRun", "GetRun", "ListRuns", "CancelRun", "ResumeRun", "DeleteRun"),
    ),
    ("stablerep.v1.GeneratorService", ("PreviewGroup", "GetStatus", "Drain")),
)
_RETRY = {
    "maxAttempts": 5,
    "initialBackoff": "0.2s",
    "maxBackoff": "3s",
    "backoffMultiplier": 2,
    "retryableStatusCodes": ["UNAVAILABLE"],
}
_DETAILS_KEY = "grpc-status-details-bin"
_REFUSED = (
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
)


def channel_options() -> list[tuple[str, int | str]]:
    """Options of every channel: retries, and answers of up to 64 MiB (a preview holds a group's images)."""
    methods = [{"service": service, "method": name} for service, names in _RETRIED for name in names]
    config = {"methodConfig": [{"name": methods, "retryPolicy": _RETRY}]}
    return [
        ("grpc.service_config", json.dumps(config)),
        ("grpc.enable_retries", 1),
        ("grpc.max_receive_message_length", 64 << 20),
    ]


def gateway_options() -> list[tuple[str, int | str]]:
    """With keepalive: a watch of days finds out that its gateway vanished without closing the connection."""
    return [
        *channel_options(),
        ("grpc.keepalive_time_ms", 30_000),
        ("grpc.keepalive_timeout_ms", 10_000),
    ]


def pause(attempt: int) -> float:
    """Seconds before the reconnect number `attempt`, counted from 1."""
    return float(min(0.2 * 2**attempt, 4.0))


def time_left(seconds: float | None) -> Callable[[], float | None]:
    """A clock that starts now: how much of `seconds` is left, never less than 0; always None for None."""
    end = None if seconds is None else time.monotonic() + seconds
    return lambda: None if end is None else max(0.0, end - time.monotonic())


@contextmanager
def our_errors() -> Iterator[None]:
    """Turns a gRPC failure inside the block into an error of `stablerep.errors`."""
    try:
        yield
    except grpc.RpcError as error:
        raise translate(error) from error


def translate(error: grpc.RpcError) -> StableRepError:
    """The error of `stablerep.errors` that the server meant."""
    code, text = error.code(), error.details() or ""
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return DeadlineExceeded("no answer within `timeout`; what was asked may still be done")
    if code is grpc.StatusCode.UNAVAILABLE:
        return Unavailable(_with_advice(text) or "the server is not available")
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return Unauthenticated(text)
    if code is grpc.StatusCode.PERMISSION_DENIED:
        return PermissionDenied(text)
    if code is grpc.StatusCode.RESOURCE_EXHAUSTED and text.startswith("Concurrent RPC limit"):
        return Unavailable("the server has as many calls in work as it takes; try again later")
    if code is grpc.StatusCode.NOT_FOUND:
        return NotFound(text)
    if code is grpc.StatusCode.DATA_LOSS:
        return TornObject(text)
    field = _field(error)
    if code is grpc.StatusCode.ALREADY_EXISTS:
        return AlreadyExists(text, field=field)
    if code is grpc.StatusCode.FAILED_PRECONDITION:
        return WrongState(text.removeprefix(f"{field}: "), field=field)
    if code in _REFUSED:
        return InvalidInput(text.removeprefix(f"{field}: "), field=field)
    return StableRepError(f"{code.name}: {text}")


def _with_advice(text: str) -> str:
    """The text of a connection that failed, with what to do where TLS is the reason."""
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return f"{text}; the server's certificate is not of the authority in ca_file, or has expired"
    if "Hostname Verification" in text:
        return f"{text}; the server's certificate is for other names than the one in the address"
    if "handshake failed" in text:
        return f"{text}; does the server speak TLS, and does it want a client's certificate?"
    if "Socket closed" in text:
        return f"{text}; if the server speaks TLS, give ca_file or tls, and the certificate that it asks for"
    return text


def _field(error: Any) -> str:
    """The field that the server's details name; empty if they name none."""
    for key, value in error.trailing_metadata() or ():
        if key != _DETAILS_KEY:
            continue
        for detail in status_pb2.Status.FromString(value).details:
            bad_request, info = error_details_pb2.BadRequest(), error_details_pb2.ErrorInfo()
            if detail.Unpack(bad_request) and bad_request.field_violations:
                return str(bad_request.field_violations[0].field)
            if detail.Unpack(info) and "field" in info.metadata:
                return str(info.metadata["field"])
    return ""
