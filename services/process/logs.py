"""Logs of every process: JSON lines or text, whoever logs, with the job, shard or call that they are about.

Code logs with the standard library's loggers. What `about` binds is added to each line of the same thread or
task, and of threads and tasks that were given a copy of its context. Secrets of the settings and passwords in
URLs are masked, should a library put them into its message.
"""

import logging
import os
import re
import sys
import threading
from collections.abc import Awaitable, Callable, Iterable
from contextlib import AbstractContextManager
from types import TracebackType
from typing import Any
from urllib.parse import urlsplit

import grpc
import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

from stablerep.config.settings import Settings

logger = logging.getLogger("stablerep")
_PASSWORD_IN_URL = re.compile(r"(\w+://[^\s:/@]*:)[^\s/@]+@")
_BEARER = re.compile(r"(?i)(bearer\s+)[^\s\"',}\]]+")
_MASK = "***"
_FIRST = ("timestamp", "level", "logger", "event")


def about(**names: Any) -> AbstractContextManager[None]:
    """Within the block, and in contexts copied in it, log lines have these names, such as job and shard."""
    return structlog.contextvars.bound_contextvars(**names)


def from_now_on_about(**names: Any) -> None:
    """The same until the task or thread ends, such as that of a gRPC call."""
    structlog.contextvars.bind_contextvars(**names)


def set_up_logs(settings: Settings) -> None:
    """From now on all that is logged goes to standard error, as `log_format` and `log_level` say."""
    # Of gRPC's C core, which writes past every logger; read when its first server or channel is made.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    as_json = settings.log_format == "json" or (settings.log_format == "auto" and not sys.stderr.isatty())
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_formatter(as_json, _secrets(settings)))
    logging.basicConfig(level=settings.log_level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    sys.excepthook = _log_end
    threading.excepthook = lambda end: _log_thread_end(end)


class CallNames(grpc.aio.ServerInterceptor):
    """Log lines written during a call name its method, which is bound to the call's own task."""

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Any]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Any:
        from_now_on_about(method=handler_call_details.method)
        return await continuation(handler_call_details)


def _formatter(as_json: bool, secrets: Iterable[str]) -> logging.Formatter:
    common: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    renderer: list[Processor]
    if as_json:
        renderer = [
            structlog.processors.format_exc_info,
            _masking(secrets),
            structlog.processors.JSONRenderer(ensure_ascii=False, default=str),
        ]
    else:
        renderer = [
            structlog.processors.format_exc_info,
            _masking(secrets),
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty(), pad_event_to=0, pad_level=False),
        ]
    return structlog.stdlib.ProcessorFormatter(
        foreign_pre_chain=common,
        processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
    )


def _secrets(settings: Settings) -> list[str]:
    """What must not be read in a log; a word too short to be a secret would only mask other text."""
    found = [settings.s3.secret_key, settings.s3.session_token, urlsplit(settings.redis_url).password or ""]
    return [secret for secret in found if len(secret) >= 4]


def _masking(secrets: Iterable[str]) -> Processor:
    literal = re.compile("|".join(re.escape(secret) for secret in secrets) or r"(?!)")

    def mask(text: str) -> str:
        text = _PASSWORD_IN_URL.sub(rf"\1{_MASK}@", literal.sub(_MASK, text))
        return _BEARER.sub(rf"\1{_MASK}", text)

    def process(_: WrappedLogger, __: str, event: EventDict) -> EventDict:
        ordered = {key: event[key] for key in _FIRST if key in event} | dict(event)
        return {key: mask(value) if isinstance(value, str) else value for key, value in ordered.items()}

    return process


def _log_end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return
    logger.critical("the process ends: %s", error, exc_info=(kind, error, trace))


def _log_thread_end(end: threading.ExceptHookArgs) -> None:
    if end.exc_value is not None and not issubclass(end.exc_type, SystemExit):
        name = end.thread.name if end.thread else "?"
        logger.error("thread %s ended: %s", name, end.exc_value, exc_info=end.exc_value)
