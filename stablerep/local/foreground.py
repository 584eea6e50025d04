"""A long command in the foreground: one at a time in a folder, and SIGTERM ends it as Ctrl-C does."""

from __future__ import annotations

import fcntl
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

from stablerep.errors import StableRepError


@contextmanager
def only_one(lock: Path, problem: str) -> Iterator[None]:
    """Holds the lock file. Raises StableRepError with this text while another process does."""
    with lock.open("w", encoding="utf-8") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise StableRepError(problem) from error
        yield


def interrupt_on_sigterm() -> None:
    """From now on SIGTERM raises KeyboardInterrupt in the main thread."""
    signal.signal(signal.SIGTERM, _as_interrupt)


def _as_interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
