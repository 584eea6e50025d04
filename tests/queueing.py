"""What tests of the queue share: jobs without objects in a store, planned and worked off."""

from stablerep.queue.client import Queue
from stablerep.queue.leases import Lease

LONG = 60.0
"""A lease that no test outlasts, in seconds."""


def add(queue: Queue, dataset: str, shards: int, *, priority: int = 0) -> None:
    """A planned job of so many shards."""
    queue.add_job(dataset, priority=priority)
    queue.set_planned(dataset, shards)
    queue.finish_planning(dataset)


def finish(queue: Queue, lease: Lease) -> bool:
    """Reports the shard done, with 2 groups of 4 images and a skipped caption."""
    return queue.complete(lease, groups=2, images=8, skipped=1)


def drain(queue: Queue, worker: str = "w") -> list[tuple[str, int]]:
    """Leases and completes until nothing is left; returns what was leased, in order."""
    taken = []
    while lease := queue.lease(worker, LONG):
        taken.append((lease.dataset, lease.shard))
        assert finish(queue, lease)
    return taken
