"""One job's shards compared with its objects, and the difference applied to the queue while workers work."""

import secrets
from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from stablerep.errors import NotFound
from stablerep.jobs.manifests import forget_shards
from stablerep.jobs.recovery.indexes import NOTHING, ShardBits, Totals, number_of, read_each, shards_below
from stablerep.jobs.recovery.shard_check import NO_TAR, Checked, Verdict, index_reader, shard_checker
from stablerep.queue.client import Queue
from stablerep.queue.leases import Lease
from stablerep.queue.lock import Lock
from stablerep.shards.layout import (
    captions_prefix,
    dead_key,
    index_key,
    index_prefix,
    shard_key,
    shards_prefix,
)
from stablerep.storage.interface import Store

_AT_A_TIME = 1000


@dataclass(frozen=True)
class Snapshot:
    """The queue's view of a job at one moment; shards completed later add to its totals by themselves."""

    planned: int
    totals: Totals
    job_uid: str
    restore_time: str
    done: ShardBits


@dataclass
class Findings:
    """The store's view of a job's shards."""

    verdicts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    kept: Totals = NOTHING
    """Of the good shards that are done in the snapshot."""
    unknown: list[Checked] = field(default_factory=list)
    """Good, and not done in the snapshot."""
    lost: list[int] = field(default_factory=list)
    no_captions: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def snapshot(queue: Queue, dataset: str) -> Snapshot:
    """Raises `NotFound`."""
    reply = queue.run_script("snapshot", dataset)
    if not reply:
        raise NotFound(f"no job {dataset!r} in the queue")
    planned, groups, images, skipped, worker_ms, job_uid, restore_time, bits = reply
    totals = Totals(int(groups), int(images), int(skipped), int(worker_ms))
    return Snapshot(int(planned), totals, job_uid, restore_time, ShardBits(bytes.fromhex(bits)))


def compare_indexes(store: Store, dataset: str, before: Snapshot, check: Callable[[], None]) -> Findings:
    """Counts what the done shards hold."""
    found = Findings()
    for checked in read_each(index_reader(store, dataset), before.done, check):
        found.kept += checked.totals
    return found


def compare_objects(
    store: Store, dataset: str, before: Snapshot, check: Callable[[], None], *, read_bytes: bool
) -> Findings:
    """Checks every shard that has an index or a tar, or is done; tars without an index are indexed.

    Args:
        read_bytes: reads every tar and its captions; otherwise only sizes are compared.
    """
    # Indexes first: a worker writes the tar before, so that one listed now is in the later listing of tars.
    indexed = _bits(shards_below(store, index_prefix(dataset), before.planned))
    sizes = _tar_sizes(store, dataset, before.planned)
    captions = _bits(shards_below(store, captions_prefix(dataset), before.planned))
    found = Findings(no_captions=[shard for shard in range(before.planned) if shard not in captions])
    shards = (n for n in range(before.planned) if n in indexed or sizes[n] != NO_TAR or n in before.done)
    for checked in read_each(shard_checker(store, dataset, sizes, verify=read_bytes), shards, check):
        found.verdicts[checked.verdict] += 1
        if checked.no_captions and checked.shard in captions:
            found.no_captions.append(checked.shard)
        if checked.other_captions:
            found.problems.append(f"shard {checked.shard} holds other captions than its captions object")
        if not checked.verdict.good:
            found.lost.append(checked.shard)
        elif checked.shard in before.done:
            found.kept += checked.totals
        else:
            found.unknown.append(checked)
    return found


def apply_findings(
    store: Store, queue: Queue, lock: Lock, dataset: str, before: Snapshot, found: Findings
) -> bool:
    """Completes the shards unknown to the queue, takes back the lost ones, corrects the totals.

    Returns False where the job was restored, or deleted, since the snapshot: compare it again.
    """
    for each in found.unknown:
        lease = Lease(dataset, each.shard, "0-0", "reconciliation", 0.0, before.job_uid)
        totals = each.totals
        queue.complete(
            lease,
            groups=totals.groups,
            images=totals.images,
            skipped=totals.skipped,
            seconds=totals.worker_ms / 1000,
        )
    if found.lost:
        forget_shards(store, queue, dataset, found.lost)
    for shard in found.lost:
        # The index first: without it the shard is not done, whatever else there is.
        for key in (index_key, shard_key, dead_key):
            store.delete(key(dataset, shard))
    return invalidate_shards(queue, lock, dataset, before, found.kept, found.lost)


def invalidate_shards(
    queue: Queue, lock: Lock, dataset: str, before: Snapshot, kept: Totals, shards: Sequence[int] = ()
) -> bool:
    """Takes shards back, and makes the totals those of what was done at the snapshot and is kept.

    Returns False where the job was restored, or deleted, since the snapshot: it has other totals now.
    """
    difference = kept - before.totals
    for start in range(0, max(1, len(shards)), _AT_A_TIME):
        totals = (difference.groups, difference.images, difference.skipped, difference.worker_ms)
        chunk = shards[start : start + _AT_A_TIME]
        done = [shard for shard in chunk if shard in before.done]
        rest = [shard for shard in chunk if shard not in before.done]
        once = secrets.token_hex(8)
        job = (dataset, before.job_uid, before.restore_time)
        taken_back = (len(done), *done, *rest)
        if not queue.run_script("invalidate_shards", lock.name, lock.token, *job, once, *totals, *taken_back):
            return False
        difference = NOTHING
    return True


def _bits(shards: Iterator[int]) -> ShardBits:
    bits = ShardBits()
    for shard in shards:
        bits.add(shard)
    return bits


def _tar_sizes(store: Store, dataset: str, end: int) -> Sequence[int]:
    """Sizes of the tars by shard, -1 where there is none; 8 MB for a million shards."""
    sizes = array("q", [NO_TAR]) * end
    for info in store.list(shards_prefix(dataset)):
        shard = number_of(info.key)
        if shard is not None and shard < end:
            sizes[shard] = info.size
    return sizes
