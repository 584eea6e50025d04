"""A lock in Redis that ends with its holder: a thread renews it, and the steps it is for check it again."""

import logging
import secrets
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from stablerep.errors import Unavailable
from stablerep.queue.client import Queue

logger = logging.getLogger("stablerep.queue")

LOCK_SECONDS = 15.0
RENEWALS = 3  # in that time
_LOOK_SECONDS = 0.1


class Lock:
    """What `hold` gives to who has the lock. Steps that must not come too late take `token` along."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.token = secrets.token_hex(8)
        self._lost = threading.Event()

    @property
    def lost(self) -> bool:
        """Whether another process may do the work by now."""
        return self._lost.is_set()

    def check(self) -> None:
        """Raises `Unavailable` once the lock was lost."""
        if self.lost:
            raise Unavailable(f"lost {self.name} to another process")

    def lose(self) -> None:
        self._lost.set()


@contextmanager
def hold(queue: Queue, name: str, *, seconds: float = LOCK_SECONDS) -> Iterator[Lock | None]:
    """Holds the lock during the block; None when another process has it. Raises `Unavailable`."""
    lock = Lock(name)
    milliseconds = round(seconds * 1000)
    if not queue.run_script("lock", name, lock.token, milliseconds, "take"):
        yield None
        return
    left = threading.Event()

    def renew() -> None:
        while not left.wait(seconds / RENEWALS):
            try:
                if not queue.run_script("lock", name, lock.token, milliseconds, "keep"):
                    lock.lose()
                    return
            except Unavailable as error:  # perhaps only for a moment; the steps check the token themselves
                logger.warning("%s not renewed: %s", name, error)
            except Exception:
                lock.lose()
                logger.exception("%s is given up", name)
                return

    thread = threading.Thread(target=renew, name="lock", daemon=True)
    thread.start()
    try:
        yield lock
    finally:
        left.set()
        thread.join()
        _give_up(queue, lock)


@contextmanager
def hold_within(queue: Queue, name: str, patience: float, problem: str) -> Iterator[None]:
    """Holds the lock once others let go of it; raises Unavailable(`problem`) after `patience` seconds."""
    deadline = time.monotonic() + patience
    while True:
        with hold(queue, name) as lock:
            if lock is not None:
                yield
                return
        if time.monotonic() >= deadline:
            raise Unavailable(problem)
        time.sleep(_LOOK_SECONDS)


def _give_up(queue: Queue, lock: Lock) -> None:
    try:
        queue.run_script("lock", lock.name, lock.token, 0, "keep")
    except Unavailable as error:
        logger.warning("%s runs out by itself: %s", lock.name, error)
