"""Leases that run out when a test wants them to."""

from typing import Any

from stablerep.queue.leases import Lease


def expire(raw: Any, *leases: Lease, seconds: float = 60.0) -> None:
    """Ends leases of up to `seconds` at once, as if their workers had been silent so long.

    Args:
        raw: a plain Redis client of the queue's server.
    """
    for lease in leases:
        raw.xclaim(
            "sr:ready", "generators", lease.worker, 0, [lease.entry_id], idle=round(seconds * 1000) + 1
        )
