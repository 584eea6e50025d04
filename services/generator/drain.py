"""When a worker that was told to stop must let go of the shard in hand, judged by its pace so far."""

import threading
import time


class HandBack(Exception):
    """The shard in hand would not be done in time: another worker should have it."""


class Drain:
    """The order to stop; given once or several times, the shortest grace counts."""

    def __init__(self) -> None:
        self._ordered = threading.Event()
        self._deadline = float("inf")

    @property
    def ordered(self) -> bool:
        return self._ordered.is_set()

    def order(self, grace_seconds: float = float("inf")) -> None:
        """Take no more work; the shard in hand may take `grace_seconds` (without end if not given)."""
        self._deadline = min(self._deadline, time.monotonic() + grace_seconds)
        self._ordered.set()

    def wait(self, seconds: float) -> None:
        """Sleeps, less long if the order comes."""
        self._ordered.wait(seconds)

    def check(self, pace: "Pace") -> None:
        """Raises HandBack if the order has come and the shard will not be done before the deadline."""
        if self.ordered and time.monotonic() + pace.seconds_left() > self._deadline:
            raise HandBack


class Pace:
    """How far a shard is: steps of all its batches, or groups where the pipeline does not tell its steps."""

    def __init__(self, *, steps: int, groups: int) -> None:
        self._all = {"steps": steps, "groups": groups}
        self._done = {"steps": 0, "groups": 0}
        self._started = time.monotonic()

    def count(self, what: str) -> None:
        """One more of "steps" or "groups" is done."""
        self._done[what] += 1

    @property
    def seconds(self) -> float:
        """Since the shard was begun."""
        return time.monotonic() - self._started

    def seconds_left(self) -> float:
        """Until the shard is done; without end while nothing is done."""
        share = max(self._done[what] / max(1, self._all[what]) for what in self._all)
        return self.seconds * (1 / share - 1) if share else float("inf")
