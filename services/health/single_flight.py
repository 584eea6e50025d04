"""The answer of a call that may hang, for a reader who must not: in time, or an error."""

import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, TimeoutError
from typing import Generic, TypeVar

from stablerep.errors import Unavailable

T = TypeVar("T")


class SingleFlightCall(Generic[T]):
    """Asks `call` in a thread of its own, never twice at one time, however many ask for the answer.

    Args:
        what: what is called, for the error.
        keep_seconds: an answer, or an error, serves for so long.
        wait_seconds: longest wait for an answer.
    """

    def __init__(
        self, what: str, call: Callable[[], T], *, keep_seconds: float = 1.0, wait_seconds: float = 2.0
    ) -> None:
        self._what = what
        self._call = call
        self._keep_seconds = keep_seconds
        self._wait_seconds = wait_seconds
        self._lock = threading.Lock()
        self._answer: Future[T] | None = None
        self._answered = float("-inf")

    def get(self) -> T:
        """The answer. Raises Unavailable when it does not come in time, and whatever the call raised."""
        try:
            return self._current().result(self._wait_seconds)
        except TimeoutError as error:
            raise Unavailable(f"{self._what} does not answer in {self._wait_seconds:g} s") from error

    def _current(self) -> "Future[T]":
        with self._lock:
            answer = self._answer
            if answer is None or (answer.done() and time.monotonic() - self._answered > self._keep_seconds):
                answer = self._answer = Future()
                # A daemon: a call that hangs must not keep the process from ending.
                threading.Thread(
                    target=self._ask, args=(answer,), name=f"ask {self._what}", daemon=True
                ).start()
            return answer

    def _ask(self, answer: "Future[T]") -> None:
        try:
            value = self._call()
        except BaseException as error:  # noqa: BLE001 - it is raised again where the answer is read
            self._answered = time.monotonic()
            answer.set_exception(error)
        else:
            self._answered = time.monotonic()
            answer.set_result(value)
