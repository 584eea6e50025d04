"""How often a visitor may ask for what costs a worker or the network: previews and uploads."""

import time
from collections import defaultdict, deque

from stablerep.errors import Unavailable


class Limits:
    """At most `count` within `seconds` for each visitor and kind."""

    def __init__(self, count: int = 20, seconds: float = 60.0) -> None:
        self._count, self._seconds = count, seconds
        self._asked: defaultdict[tuple[str, str], deque[float]] = defaultdict(deque)

    def check(self, kind: str, who: str) -> None:
        """Counts one. Raises Unavailable where it is one too many."""
        now = time.monotonic()
        asked = self._asked[kind, who]
        while asked and now - asked[0] > self._seconds:
            asked.popleft()
        if len(asked) >= self._count:
            wait = self._seconds - (now - asked[0])
            raise Unavailable(f"{self._count} {kind}s within a minute are enough; try again in {wait:.0f} s")
        asked.append(now)
        if len(self._asked) > 10_000:
            self._asked = defaultdict(deque, {key: times for key, times in self._asked.items() if times})
