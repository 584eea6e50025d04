"""How long a device was idle for want of a batch: a GPU less than the host waited, which runs ahead of it."""

from collections import deque
from collections.abc import Callable
from functools import partial
from typing import Any, Protocol

import torch


class Mark(Protocol):
    """A point among the work of a GPU, as `torch.cuda.Event`."""

    def query(self) -> bool:
        """Whether it has been reached."""

    def elapsed_time(self, end_event: Any) -> float:
        """Milliseconds until a later one; both have been reached."""


class Idle:
    """Of each wait for a batch the part in which the device had nothing to do.

    Args:
        mark: sets a mark behind what the device has been given so far; None: the host's waits are its own.
    """

    def __init__(self, mark: Callable[[], Mark] | None) -> None:
        self._mark = mark
        self._step_end: Mark | None = None
        self._open: deque[tuple[Mark | None, Mark, float]] = deque()
        self._seconds = 0.0

    def arrived(self, waited: float) -> None:
        """The host has waited so many seconds for a batch, and launches its step now."""
        if self._mark is None:
            self._seconds += waited
        else:
            self._open.append((self._step_end, self._mark(), waited))

    def launched(self) -> None:
        """All of the step is launched."""
        if self._mark is not None:
            self._step_end = self._mark()

    def take(self) -> float:
        """Idle seconds since it was asked last, as far as the device has come."""
        while self._open and self._open[0][1].query():
            before, start, waited = self._open.popleft()
            gap = waited if before is None else before.elapsed_time(start) / 1000
            self._seconds += min(waited, gap)
        seconds, self._seconds = self._seconds, 0.0
        return seconds


def idle_of(device: torch.device) -> Idle:
    """For the current stream of a GPU; else as the host waits."""
    return Idle(partial(mark_on, device) if device.type == "cuda" else None)


def mark_on(device: torch.device) -> Mark:
    """A mark behind what a GPU's current stream has been given so far."""
    event = torch.cuda.Event(enable_timing=True)
    event.record(torch.cuda.current_stream(device))
    return event
