"""What the done shards of a job hold, counted anew from their indexes while workers go on."""

import logging
import secrets
import threading
from collections.abc import Sequence
from dataclasses import dataclass

from stablerep.errors import NotFound, TornObject, Unavailable
from stablerep.jobs.planning.plan import StopToken
from stablerep.jobs.recovery.indexes import NOTHING, ShardBits, Totals, read_each, totals_of
from stablerep.queue.client import Queue
from stablerep.queue.lock import Lock, hold
from stablerep.shards import read_index
from stablerep.storage.interface import Store

logger = logging.getLogger("stablerep.queue")

_AT_A_TIME = 1000
_NEVER = threading.Event()


@dataclass(frozen=True)
class Snapshot:
    """What the queue says of a job at one moment; what is completed later adds to its totals by itself."""

    planned: int
    totals: Totals
    job_uid: str
    done: ShardBits


def backfill_totals(store: Store, queue: Queue, stop: StopToken = _NEVER) -> int:
    """Counts what the shards hold that were done before a rebuild; returns of how many jobs.

    Nothing happens, at the cost of one question, when no job is uncounted. One that another process counts is
    passed over. Killed anywhere, the next call does it.

    Raises:
        StoreError, Unavailable: try again later.
    """
    counted = 0
    for dataset in sorted(queue.run_script("uncounted")):
        with hold(queue, reconcile_lock(dataset)) as lock:
            if lock is not None and dataset in queue.run_script("uncounted"):
                counted += _recount(store, queue, dataset, lock, stop)
    return counted


def reconcile_lock(dataset: str) -> str:
    """Name of the lock of what corrects a job's counts."""
    return f"sr:reconcile:{dataset}"


def snapshot(queue: Queue, dataset: str) -> Snapshot:
    """Raises `NotFound`."""
    reply = queue.run_script("snapshot", dataset)
    if not reply:
        raise NotFound(f"no job {dataset!r} in the queue")
    planned, groups, images, skipped, job_uid, bits = reply
    totals = Totals(int(groups), int(images), int(skipped))
    return Snapshot(int(planned), totals, job_uid, ShardBits(bytes.fromhex(bits)))


def invalidate_shards(
    queue: Queue, lock: Lock, dataset: str, before: Snapshot, kept: Totals, shards: Sequence[int] = ()
) -> None:
    """Takes shards back, and makes the totals those of what was done at the snapshot and is kept."""
    difference = kept - before.totals
    for start in range(0, max(1, len(shards)), _AT_A_TIME):
        totals = (difference.groups, difference.images, difference.skipped)
        chunk = shards[start : start + _AT_A_TIME]
        done = [shard for shard in chunk if shard in before.done]
        rest = [shard for shard in chunk if shard not in before.done]
        once = secrets.token_hex(8)
        queue.run_script(
            "invalidate_shards", lock.name, lock.token, dataset, once, *totals, len(done), *done, *rest
        )
        difference = NOTHING


def _recount(store: Store, queue: Queue, dataset: str, lock: Lock, stop: StopToken) -> bool:
    def read(shard: int) -> Totals:
        try:
            index = read_index(store, dataset, shard)
        except TornObject as error:  # reconciliation mends it
            logger.warning("not counted: %s", error)
            return NOTHING
        return NOTHING if index is None else totals_of(index)

    def check() -> None:
        lock.check()
        if stop.is_set():
            raise Unavailable("counting was stopped; it is begun anew by another process")

    try:
        before = snapshot(queue, dataset)
    except NotFound:  # deleted meanwhile
        return False
    kept = NOTHING
    for totals in read_each(read, before.done, check):
        kept += totals
    invalidate_shards(queue, lock, dataset, before, kept)
    logger.info("%s: counted what its %d finished shards hold", dataset, len(before.done))
    return True
