"""Long-lived loops: an error is logged and counted, and the loop continues with its next round."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from uuid import uuid4

from prometheus_client import Counter

from stablerep.errors import StableRepError

logger = logging.getLogger("stablerep.loops")

_errors = Counter(
    "stablerep_loop_errors",
    "Unexpected errors in a long-lived loop, which continued.",
    ["loop"],
)

for _loop in ("planning", "totals", "manifests", "runs", "lease keeper", "readiness"):
    _errors.labels(_loop)  # exported from the start, so that the first error is an increase


@contextmanager
def surviving(loop: str) -> Iterator[None]:
    """Ends one round of a loop at an error: a warning if it is expected, else a numbered traceback."""
    try:
        yield
    except StableRepError as error:
        logger.warning("%s: %s", loop, error)
    except Exception as error:  # noqa: BLE001 - the loop must outlive what nobody expected
        log_unexpected(loop, error)


def log_unexpected(loop: str, error: Exception) -> str:
    """Logs the error with its traceback and counts it; returns the number under which the log has it."""
    number = uuid4().hex[:12]
    _errors.labels(loop).inc()
    logger.error("%s: unexpected error, number %s", loop, number, exc_info=error)
    return number


async def forever(loop: str, round: Callable[[], Awaitable[object]], seconds: float) -> None:
    """Awaits a round again and again, `seconds` apart, whatever it raises; ends when it is cancelled."""
    while True:
        with surviving(loop):
            await round()
        await asyncio.sleep(seconds)
