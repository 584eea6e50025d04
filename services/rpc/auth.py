"""Who may call which method: an interceptor that refuses every method not in its table (docs/security.md)."""

import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import grpc

from services.process.logs import from_now_on_about
from services.rpc.callers import Caller, Callers
from services.rpc.errors import to_status
from services.rpc.wrapping import wrapped
from stablerep.errors import PermissionDenied, Unauthenticated
from stablerep.tokens import Role

logger = logging.getLogger("stablerep.auth")

_JOBS = "/stablerep.v1.GenerationService/"
_RUNS = "/stablerep.v1.TrainingService/"
_WORKER = "/stablerep.v1.GeneratorService/"
ROLES: dict[str, Role] = {
    _JOBS + "GetJob": Role.READ,
    _JOBS + "ListJobs": Role.READ,
    _JOBS + "WatchJob": Role.READ,
    _JOBS + "ListShards": Role.READ,
    _JOBS + "ListWorkers": Role.READ,
    _JOBS + "GetUpload": Role.READ,
    _JOBS + "UploadCaptions": Role.SUBMIT,
    _JOBS + "DescribeCaptions": Role.SUBMIT,
    _JOBS + "CreateJob": Role.SUBMIT,
    _JOBS + "CancelJob": Role.SUBMIT,
    _JOBS + "PauseJob": Role.SUBMIT,
    _JOBS + "ResumeJob": Role.SUBMIT,
    _JOBS + "RetryJob": Role.SUBMIT,
    _JOBS + "DeleteJob": Role.ADMIN,
    _JOBS + "ReconcileJobs": Role.ADMIN,
    _RUNS + "GetRun": Role.READ,
    _RUNS + "ListRuns": Role.READ,
    _RUNS + "WatchRun": Role.READ,
    _RUNS + "GetRunLogs": Role.READ,
    _RUNS + "CreateRun": Role.SUBMIT,
    _RUNS + "CancelRun": Role.SUBMIT,
    _RUNS + "ResumeRun": Role.SUBMIT,
    _RUNS + "DeleteRun": Role.ADMIN,
    _WORKER + "GetStatus": Role.READ,
    _WORKER + "PreviewGroup": Role.SUBMIT,
    _WORKER + "Drain": Role.ADMIN,
    "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo": Role.READ,
    "/grpc.reflection.v1.ServerReflection/ServerReflectionInfo": Role.READ,
}
"""The least role that a method asks for."""
OPEN = frozenset(f"/grpc.health.v1.Health/{method}" for method in ("Check", "List", "Watch"))
"""Methods for everybody: a load balancer that looks after a server has no token."""


class AuthInterceptor(grpc.aio.ServerInterceptor):
    """Rejects every call until `admit` sets the policy."""

    def __init__(self) -> None:
        self._callers = Callers(None, None)

    def admit(self, callers: Callers) -> None:
        """Sets who may call."""
        self._callers = callers

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        handler = await continuation(handler_call_details)
        method = handler_call_details.method
        if handler is None or method in OPEN:
            return handler  # None: there is no such method, and gRPC says so
        try:
            caller = self._callers.identify(handler_call_details.invocation_metadata or ())
            check_role(method, caller)
        except (Unauthenticated, PermissionDenied) as error:
            return _refusal(method, error)
        from_now_on_about(caller=caller.name)
        return _noted(handler, method, caller) if ROLES[method] > Role.READ else handler


def check_role(method: str, caller: Caller) -> None:
    """Raises PermissionDenied unless the caller's role suffices for the method."""
    needed = ROLES.get(method)
    if needed is None:
        raise PermissionDenied(f"{method} is open to no role")
    if caller.role < needed:
        raise PermissionDenied(
            f"{_verb(method)} needs the role {needed.word}, and {caller.name} has {caller.role.word}; "
            "call with a token of that role"
        )


def _refusal(method: str, error: Unauthenticated | PermissionDenied) -> Any:
    """Ends the call before a byte of its request is parsed, whatever kind of call it is."""

    async def refuse(requests: AsyncIterator[bytes], context: grpc.aio.ServicerContext) -> None:
        logger.info("refused %s from %s: %s", method, context.peer(), error)
        code, text, details = to_status(error)
        await context.abort(code, text, details)

    return grpc.stream_stream_rpc_method_handler(refuse)


def _noted(handler: Any, method: str, caller: Caller) -> Any:
    """The handler, which first logs who asks for what: these methods change something or cost something."""

    @asynccontextmanager
    async def note(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        logger.info("%s calls %s%s from %s", caller, _verb(method), _subject(request), context.peer())
        yield request

    return wrapped(handler, note)


def _verb(method: str) -> str:
    return method.rpartition("/")[2]


def _subject(request: Any) -> str:
    """The job or run that a request is about; as `repr`, for it was not checked yet."""
    name = next((n for key in ("name", "dataset", "run") if (n := getattr(request, key, ""))), "")
    return f" {name[:80]!r}" if isinstance(name, str) and name else ""
