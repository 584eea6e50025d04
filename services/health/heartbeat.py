"""A sign of life that a thread or an event loop gives, so that a probe notices when it is stuck."""

import threading
import time


class Heartbeat:
    """Beats from one thread, read from any. It counts as alive for `seconds` after each beat."""

    def __init__(self, seconds: float) -> None:
        self._lock = threading.Lock()
        self._seconds = seconds
        self._until = time.monotonic() + seconds

    def beat(self, seconds: float | None = None) -> None:
        """Alive; with `seconds` for so long, before a step that may take longer than the others."""
        with self._lock:
            self._until = time.monotonic() + (self._seconds if seconds is None else seconds)

    @property
    def alive(self) -> bool:
        """Whether the last beat is recent enough."""
        with self._lock:
            return time.monotonic() < self._until
