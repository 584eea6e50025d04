"""How many images a batch has: halved when memory runs out, tried larger again with later work."""

LONGEST_WAIT = 64


class BatchSize:
    """Begins with the full size. After a halving the next shard tries twice as much again.

    Where that runs out of memory as well, 2, 4, 8, ... and at most 64 shards pass before the next attempt: a
    GPU that another process had filled gets back to the recipe's batch, and one that is too small loses
    little time to attempts.
    """

    def __init__(self, full: int) -> None:
        self.full = full
        self.now = full
        self._wait = 1
        self._left = 0

    def begin(self) -> None:
        """More work begins, a shard say."""
        if self.now == self.full:
            self._wait = 1
            return
        self._left -= 1
        if self._left <= 0:
            self.now = min(self.full, 2 * self.now)
            self._left = 1

    def halve(self) -> bool:
        """Memory did not suffice; False when a batch is one image already."""
        if self.now == 1:
            return False
        self.now //= 2
        self._left = self._wait
        self._wait = min(LONGEST_WAIT, 2 * self._wait)
        return True
