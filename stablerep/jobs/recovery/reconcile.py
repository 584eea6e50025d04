"""Reconciliation: what the queue says of a job against the objects in the store, which are the truth.

Shards whose tar is gone or damaged are taken back, to be made again; tars without an index are indexed; lost
captions objects are written again from the source. It works on jobs that run and on those that are over.
"""

from array import array
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from stablerep.captions.remote.access import STORE_ONLY, Remote
from stablerep.errors import NotFound, StableRepError, Unavailable
from stablerep.jobs.control import record_dead
from stablerep.jobs.planning.plan import StopToken, rewrite_captions
from stablerep.jobs.records import read_create
from stablerep.jobs.recovery.backfill import (
    Snapshot,
    invalidate_shards,
    reconcile_lock,
    snapshot,
)
from stablerep.jobs.recovery.indexes import NOTHING, ShardBits, Totals, number_of, read_each, shards_below
from stablerep.jobs.recovery.rebuild import ensure_queue, job_names, restore_absent
from stablerep.jobs.recovery.shard_check import NO_TAR, Checked, Verdict, shard_checker
from stablerep.jobs.recovery.sync import sync_from_store
from stablerep.queue.client import Queue
from stablerep.queue.leases import Lease
from stablerep.queue.lock import Lock, hold
from stablerep.queue.states import JobState
from stablerep.shards.layout import (
    captions_prefix,
    dead_key,
    index_key,
    index_prefix,
    shard_key,
    shards_prefix,
)
from stablerep.storage.interface import Store

__all__ = ["ReconcileResult", "ensure_queue", "reconcile_all", "reconcile_job"]

MAX_PROBLEMS = 100


@dataclass(frozen=True)
class ReconcileResult:
    """What was found of a job and done; the fields are those of `ReconcileJobsResponse`."""

    dataset: str
    state: JobState
    shards: int
    done: int
    dead: int
    missing: int
    torn: int
    indexed: int
    problems: tuple[str, ...]


@dataclass
class _Findings:
    """What the store says of the job's shards."""

    verdicts: dict[Verdict, int] = field(default_factory=lambda: dict.fromkeys(Verdict, 0))
    kept: Totals = NOTHING
    """Of the good shards that the queue had as done."""
    unknown: list[Checked] = field(default_factory=list)
    """Good, and not done for the queue."""
    lost: list[Checked] = field(default_factory=list)
    no_captions: list[int] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def reconcile_job(
    store: Store,
    queue: Queue,
    dataset: str,
    *,
    verify: bool = False,
    remote: Remote = STORE_ONLY,
    stop: StopToken | None = None,
) -> ReconcileResult:
    """Compares a job with its objects and mends what can be mended.

    Workers may go on meanwhile. Killed anywhere, the next call does the rest.

    Args:
        verify: reads every tar and compares it with its index, members and SHA-256; otherwise only the sizes
            of the tars are compared with their indexes.
        remote: the URLs besides the store's that lost captions may be read from again.
        stop: ends it with `Unavailable`.
    Raises:
        NotFound: there is no such job.
        StoreError, Unavailable: try again later; also while another process reconciles the job.
    """
    if not ensure_queue(store, queue):
        raise Unavailable("the queue is being rebuilt from the store; try again in a moment")
    record = read_create(store, dataset)
    restore_absent(store, queue, dataset)
    with hold(queue, reconcile_lock(dataset)) as lock:
        if lock is None:
            raise Unavailable(f"another process reconciles job {dataset}; try again later")

        def check() -> None:
            lock.check()
            if stop is not None and stop.is_set():
                raise Unavailable("reconciliation was stopped; call it again")

        sync_from_store(store, queue, dataset)
        before = snapshot(queue, dataset)
        found = _look(store, dataset, before, check, verify=verify)
        if found.no_captions:
            found.problems += rewrite_captions(store, record, found.no_captions, remote)
        check()
        _mend(store, queue, lock, dataset, before, found)
        record_dead(store, queue, dataset)
    status = queue.status(dataset)
    return ReconcileResult(
        dataset=dataset,
        state=status.state,
        shards=status.counts.planned,
        done=status.counts.done,
        dead=status.counts.dead,
        missing=found.verdicts[Verdict.MISSING],
        torn=found.verdicts[Verdict.TORN],
        indexed=found.verdicts[Verdict.INDEXED],
        problems=tuple(found.problems[:MAX_PROBLEMS]),
    )


def reconcile_all(
    store: Store,
    queue: Queue,
    *,
    verify: bool = False,
    remote: Remote = STORE_ONLY,
    stop: StopToken | None = None,
) -> Iterator[ReconcileResult]:
    """Reconciles every job of the store, by name; one that cannot be is told as a problem of its own."""
    for dataset in job_names(store):
        try:
            yield reconcile_job(store, queue, dataset, verify=verify, remote=remote, stop=stop)
        except NotFound:  # a dataset that no job made, or a job that was deleted just now
            continue
        except StableRepError as error:
            if stop is not None and stop.is_set():
                raise
            status = queue.status(dataset)
            counts = status.counts
            yield ReconcileResult(
                dataset, status.state, counts.planned, counts.done, counts.dead, 0, 0, 0, (str(error),)
            )


def _look(
    store: Store, dataset: str, before: Snapshot, check: Callable[[], None], *, verify: bool
) -> _Findings:
    """Looks at every shard that has an index or a tar, or is done for the queue."""
    # Indexes first: a worker writes the tar before, so that one listed now is in the later listing of tars.
    indexed = ShardBits()
    for shard in shards_below(store, index_prefix(dataset), before.planned):
        indexed.add(shard)
    sizes = _tar_sizes(store, dataset, before.planned)
    shards = (n for n in range(before.planned) if n in indexed or sizes[n] != NO_TAR or n in before.done)
    found = _Findings()
    captions = ShardBits()
    for shard in shards_below(store, captions_prefix(dataset), before.planned):
        captions.add(shard)
    found.no_captions = [shard for shard in range(before.planned) if shard not in captions]
    for checked in read_each(shard_checker(store, dataset, sizes, verify=verify), shards, check):
        _note(found, before, checked, captions)
    return found


def _note(found: _Findings, before: Snapshot, checked: Checked, captions: ShardBits) -> None:
    found.verdicts[checked.verdict] += 1
    if checked.no_captions and checked.shard in captions:
        found.no_captions.append(checked.shard)
    if checked.other_captions:
        found.problems.append(f"shard {checked.shard} holds other captions than its captions object")
    if not checked.verdict.good:
        found.lost.append(checked)
    elif checked.shard in before.done:
        found.kept += checked.totals
    else:
        found.unknown.append(checked)


def _tar_sizes(store: Store, dataset: str, end: int) -> Sequence[int]:
    """Sizes of the tars by shard, -1 where there is none; 8 MB for a million shards."""
    sizes = array("q", [NO_TAR]) * end
    for info in store.list(shards_prefix(dataset)):
        shard = number_of(info.key)
        if shard is not None and shard < end:
            sizes[shard] = info.size
    return sizes


def _mend(store: Store, queue: Queue, lock: Lock, dataset: str, before: Snapshot, found: _Findings) -> None:
    """Brings queue and store to what was found. What workers complete meanwhile counts for itself."""
    for each in found.unknown:
        lease = Lease(dataset, each.shard, "0-0", "reconciliation", 0.0, before.job_uid)
        totals = each.totals
        queue.complete(lease, groups=totals.groups, images=totals.images, skipped=totals.skipped)
    for each in found.lost:
        # The index first: without it the shard is not done, whatever else there is.
        for key in (index_key, shard_key, dead_key):
            store.delete(key(dataset, each.shard))
    invalidate_shards(queue, lock, dataset, before, found.kept, [each.shard for each in found.lost])
