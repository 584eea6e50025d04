"""Threads that work for one another: when one of them ends by an error, the others end too."""

import logging
import threading
from collections.abc import Callable

logger = logging.getLogger("stablerep.generator")


class ThreadGroup:
    """`check` raises the first error that one of the threads ended by.

    Args:
        on_failure: called, once, by the thread that failed.
    """

    def __init__(self, on_failure: Callable[[], None]) -> None:
        self._on_failure = on_failure
        self._lock = threading.Lock()
        self._error: BaseException | None = None
        self._threads: dict[str, threading.Thread] = {}

    def start(self, name: str, work: Callable[[], None]) -> None:
        """Runs `work` in a thread that does not keep the process alive."""

        def run() -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001 - raised again by `check`
                logger.error("the %s thread ended: %s", name, error)
                with self._lock:
                    is_first, self._error = self._error is None, self._error or error
                if is_first:
                    self._on_failure()

        thread = self._threads[name] = threading.Thread(target=run, name=name, daemon=True)
        thread.start()

    def join(self, name: str) -> None:
        """Waits for the thread of this name; one that was never started has ended."""
        if name in self._threads:
            self._threads[name].join()

    def check(self) -> None:
        """Raises what a thread ended by."""
        with self._lock:
            if self._error is not None:
                raise self._error
