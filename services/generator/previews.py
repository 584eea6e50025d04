"""Groups asked for over gRPC, waiting for their turn between the worker's batches."""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field

from stablerep.config.recipe import Recipe
from stablerep.errors import Unavailable
from stablerep.shards.group import Group

MAX_WAITING = 8


@dataclass(frozen=True)
class Preview:
    """One group to make, and where to put it."""

    caption: str
    recipe: Recipe
    seed: int
    caption_id: int = 0
    result: "Future[Group]" = field(default_factory=Future)


class Previews:
    """The previews that wait; any thread may add one, the worker's takes them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[Preview] = deque()
        self._closed = False

    def add(self, preview: Preview) -> "Future[Group]":
        """The group to come. Raises Unavailable when the worker is ending or many previews wait."""
        with self._lock:
            if self._closed:
                raise Unavailable("this worker is stopping; ask another")
            if len(self._waiting) >= MAX_WAITING:
                raise Unavailable(f"{MAX_WAITING} previews wait for this worker already; try again later")
            self._waiting.append(preview)
        return preview.result

    def take(self, is_wanted: Callable[[Preview], bool]) -> Preview | None:
        """The first wanted one that its caller has not given up."""
        with self._lock:
            for preview in list(self._waiting):
                if is_wanted(preview):
                    self._waiting.remove(preview)
                    if preview.result.set_running_or_notify_cancel():
                        return preview
        return None

    def close(self) -> None:
        """Refuses those that wait and all that come."""
        with self._lock:
            self._closed = True
            waiting = list(self._waiting)
            self._waiting.clear()
        for preview in waiting:
            if preview.result.set_running_or_notify_cancel():
                preview.result.set_exception(Unavailable("this worker is stopping; ask another"))
