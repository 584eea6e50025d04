"""Renews a lease from a thread of its own while its shard is made, and notices when it is lost."""

import threading
from contextvars import copy_context
from types import TracebackType

from services.process.loops import surviving
from stablerep.queue.client import Lease, Queue, RenewOutcome

RENEWALS_A_LEASE = 3
NOTICE_SECONDS = 2.0
"""Maximum seconds between renewals, however long the lease: each finds out whether the job was cancelled."""


class LeaseOver(Exception):
    """The shard is another worker's now, or its job is over: what was made of it is dropped."""

    def __init__(self, renewal: RenewOutcome) -> None:
        super().__init__("lease lost" if renewal is RenewOutcome.LOST else "job cancelled")
        self.renewal = renewal


class LeaseKeeper:
    """A context manager: renews every third of the lease's time, every 2 s at least, until left.

    A queue that cannot be reached does not end the work: whoever commits the shard, its tar is created once.
    """

    def __init__(self, queue: Queue, lease: Lease, lease_seconds: float) -> None:
        self._queue = queue
        self._lease = lease
        self._interval = min(lease_seconds / RENEWALS_A_LEASE, NOTICE_SECONDS)
        self._left = threading.Event()
        self._renewal = RenewOutcome.HELD
        names = copy_context()  # its log lines say which shard they are about
        self._thread = threading.Thread(
            target=names.run, args=(self._keep,), name="lease-keeper", daemon=True
        )

    def check(self) -> None:
        """Raises LeaseOver once a renewal was refused."""
        if self._renewal is not RenewOutcome.HELD:
            raise LeaseOver(self._renewal)

    def __enter__(self) -> "LeaseKeeper":
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._left.set()
        self._thread.join()

    def _keep(self) -> None:
        while not self._left.wait(self._interval):
            # A lease that is not renewed ends, and another worker makes the shard: the tar is created once.
            with surviving("lease keeper"):
                self._renewal = self._queue.renew(self._lease)
            if self._renewal is not RenewOutcome.HELD:
                return
