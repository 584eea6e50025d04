"""When a stopping worker must release its leased shards, judged by its pace so far."""

import threading
import time

SHORTEST_GRACE = 1.0
"""Seconds for the orderly way out, however short the grace."""


class ReleaseShard(Exception):
    """The shard would not be done in time: another worker should have it. The text says why."""


class Drain:
    """The order to stop; given once or several times, the shortest grace counts."""

    def __init__(self) -> None:
        self.sign = threading.Event()
        """Set by the order; for those that only want to know."""
        self._deadline = float("inf")
        self._ordered_at = float("inf")

    @property
    def ordered(self) -> bool:
        return self.sign.is_set()

    @property
    def overdue(self) -> bool:
        """Whether the grace is over, so that whatever still runs must end."""
        return self.ordered and time.monotonic() > max(self._deadline, self._ordered_at + SHORTEST_GRACE)

    def order(self, grace_seconds: float = float("inf")) -> None:
        """Stops leasing; leased shards may take `grace_seconds` (no limit if not given)."""
        now = time.monotonic()
        self._deadline = min(self._deadline, now + grace_seconds)
        self._ordered_at = min(self._ordered_at, now)
        self.sign.set()

    def wait(self, seconds: float) -> None:
        """Sleeps, less long if the order comes; a moment at least, for those that go on after it."""
        if self.ordered:
            time.sleep(min(seconds, 0.2))
        else:
            self.sign.wait(seconds)

    def check(self, seconds_left: float = 0.0) -> None:
        """Raises HandBack if the order has come and what takes `seconds_left` will not be done in time."""
        if self.ordered and time.monotonic() + seconds_left > self._deadline:
            raise ReleaseShard("it would not be done in time")


class Pace:
    """How far a shard is: steps of all its batches, or groups if the pipeline reports no steps."""

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
        # Batches made again, of a bad caption or for want of memory, take more steps than were foreseen.
        share = min(1.0, max(self._done[what] / max(1, self._all[what]) for what in self._all))
        return self.seconds * (1 / share - 1) if share else float("inf")
