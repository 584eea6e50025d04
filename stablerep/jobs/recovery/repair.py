"""The one repair: brings the queue, and at depth a job's objects, to what the store says.

It works like a controller: it reads the state that the store records, compares it with what is there, and
applies the difference. Every step may be repeated: a process may die anywhere, the next repair does the rest.

While the queue has no epoch, nothing is leased and steps that change a job are refused. One process puts in
place what the store says, then begins the next epoch. Which shards are done is known from a listing; what
they hold, only from reading every index: it is counted afterwards, while workers work (`Depth.SHARDS`).
"""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from itertools import islice

from stablerep.captions.remote.access import STORE_ONLY, Remote
from stablerep.errors import NotFound, StableRepError, Unavailable
from stablerep.jobs.control import finish_deletion, record_dead
from stablerep.jobs.manifests import update_manifest
from stablerep.jobs.planning.plan import StopToken, rewrite_captions
from stablerep.jobs.records import read_create
from stablerep.jobs.recovery.compare import (
    Findings,
    apply_findings,
    compare_indexes,
    compare_objects,
    snapshot,
)
from stablerep.jobs.recovery.shard_check import Verdict
from stablerep.jobs.recovery.stored import StoredJob, job_names, read_job, with_shards
from stablerep.queue.client import Queue
from stablerep.queue.lock import hold
from stablerep.queue.states import JobState
from stablerep.shards.manifest import known_blocks
from stablerep.storage.interface import Store

logger = logging.getLogger("stablerep.queue")

_REBUILD = "sr:rebuild"
_DEAD_AT_A_TIME = 500
_MAX_PROBLEMS = 100
_NEVER = threading.Event()


class Depth(IntEnum):
    """How much is compared; each depth includes those before it.

    KEYS: the queue with itself, for keys that were deleted or evicted: a few milliseconds for 1,000 jobs.
    RECORDS: each job's state with its records: a few small objects for each job that is not over.
    SHARDS: a job's totals with its index objects.
    CONTENT: a job's indexes and captions with the objects there are, tars by their size.
    BYTES: every tar and captions object is read.
    """

    KEYS = 0
    RECORDS = 1
    SHARDS = 2
    CONTENT = 3
    BYTES = 4


@dataclass(frozen=True)
class ReconcileResult:
    """What a repair found of a job; the fields are those of `ReconcileJobsResponse`."""

    dataset: str
    state: JobState
    shards: int
    done: int
    dead: int
    missing: int = 0
    torn: int = 0
    indexed: int = 0
    problems: tuple[str, ...] = ()


def repair(
    store: Store,
    queue: Queue,
    depth: Depth = Depth.KEYS,
    dataset: str = "",
    *,
    remote: Remote = STORE_ONLY,
    stop: StopToken = _NEVER,
) -> ReconcileResult | None:
    """Repairs the queue, and one job to any depth; returns what was found of that job.

    At KEYS and RECORDS None is returned, at once if another process restores the queue: see `Queue.epoch`. At
    SHARDS a job that is gone, or that another process repairs, is passed over. Workers may work meanwhile.

    Args:
        dataset: the job; empty: every job, to RECORDS at most.
        remote: the URLs besides the store's that lost captions may be read from again.
        stop: ends it with `Unavailable`; the next repair does the rest.
    Raises:
        NotFound: there is no such job (CONTENT and BYTES).
        StoreError, Unavailable: try again later.
    """

    def check() -> None:
        if stop.is_set():
            raise Unavailable("the repair was stopped; the next one does the rest")

    for problem in queue.inspect():
        logger.warning("the queue has lost data: %s", problem)
    whole = queue.epoch() is not None or _restore(store, queue, check)
    if depth is Depth.KEYS or (not whole and depth is Depth.RECORDS):
        return None
    if not whole:
        raise Unavailable("the queue is being restored from the store; try again in a moment")
    known = set(queue.jobs())
    for name in [dataset] if dataset else job_names(store):
        check()
        try:
            _apply_records(store, queue, name, check, known=name in known)
        except NotFound:  # deleted meanwhile
            continue
    if depth is Depth.RECORDS:
        return None
    try:
        return _repair_shards(store, queue, depth, dataset, remote, check)
    except NotFound:
        if depth is Depth.SHARDS:  # deleted, or lost again, meanwhile
            return None
        raise


def _restore(store: Store, queue: Queue, check: Callable[[], None]) -> bool:
    """Restores the damaged jobs, or all of them, and begins an epoch; False while another process does so."""
    with hold(queue, _REBUILD) as lock:
        if lock is None:
            return queue.epoch() is not None

        def check_both() -> None:
            lock.check()
            check()

        damaged = queue.run_script("begin_rebuild", lock.token)
        logger.warning("restoring %s of the queue from %s", ", ".join(damaged) or "all jobs", store.url)
        began = time.monotonic()
        restored = shards = 0
        deleting: list[StoredJob] = []
        gone: list[str] = []
        for dataset in damaged or job_names(store):
            check_both()
            job = read_job(store, dataset)
            if job is None:
                gone.append(dataset)
            elif job.deleting:
                deleting.append(job)
            else:
                job = with_shards(store, job, check_both)
                _put(queue, job, lock.token)
                restored, shards = restored + 1, shards + len(job.done)
        queue.begin_epoch(lock.token)
    seconds = time.monotonic() - began
    logger.warning("restored: %d jobs, %d finished shards, in %.1f s", restored, shards, seconds)
    for job in deleting:
        _finish_deletion(store, queue, job)
    for dataset in set(gone).intersection(damaged):
        queue.remove(dataset)  # its objects were removed by hand
    return True


def _put(queue: Queue, job: StoredJob, token: str = "") -> bool:
    """Puts a job in place; without the token of a rebuild only where there is none of its name."""
    fields: dict[str, str | int] = {
        "state": job.state.value,
        "priority": job.record.spec.priority,
        "planned": job.planned,
        "complete": int(job.planned_all),
        "groups": 0,
        "images": 0,
        "skipped": 0,
        "job_uid": job.record.job_uid,
        "shard_images": job.record.spec.shard_images,
        "create_time": f"{job.record.create_time.timestamp():.6f}",
        "end_time": f"{job.end_time.timestamp():.6f}" if job.end_time else "",
        "error": job.control.error,
    }
    dataset = job.record.spec.dataset
    flat = [word for pair in fields.items() for word in pair]
    if not queue.run_script("restore", token, dataset, bytes(job.done), *flat):
        return False
    letters = iter(job.dead)
    while chunk := tuple(islice(letters, _DEAD_AT_A_TIME)):
        queue.run_script("restore_dead", token, dataset, *(word for letter in chunk for word in letter))
    return True


def _apply_records(
    store: Store, queue: Queue, dataset: str, check: Callable[[], None], *, known: bool
) -> None:
    """Repeats steps that a process died before, or that a server lost with its last second."""
    if not known:
        job = read_job(store, dataset)
        if job is None or _finish_deletion(store, queue, job):
            return
        _put(queue, with_shards(store, job, check))
    # The queue first: users' steps write the store before the queue.
    status = queue.status(dataset)
    if not status.state.final:
        job = read_job(store, dataset)
        if job is None:
            if not known:  # deleted between the two
                queue.remove(dataset)
            return
        if _finish_deletion(store, queue, job):
            return
        if job.planned_all and not status.planned_all:
            queue.set_planned(dataset, job.planned)
            queue.finish_planning(dataset)
        if job.control.ended is not None:
            queue.set_state(dataset, job.control.ended, job.control.error)
        elif job.control.paused is not (status.state is JobState.PAUSED):
            queue.set_state(dataset, JobState.PAUSED if job.control.paused else JobState.RUNNING)
    if status.counts.dead:
        record_dead(store, queue, dataset)


def _repair_shards(
    store: Store, queue: Queue, depth: Depth, dataset: str, remote: Remote, check: Callable[[], None]
) -> ReconcileResult | None:
    with hold(queue, f"sr:repair:{dataset}") as lock:
        if depth is Depth.SHARDS and (lock is None or dataset not in queue.run_script("uncounted")):
            return None
        if lock is None:
            raise Unavailable(f"another process repairs job {dataset}; try again later")

        def check_both() -> None:
            lock.check()
            check()

        while True:
            record, before = read_create(store, dataset), snapshot(queue, dataset)
            if depth is Depth.SHARDS:
                found = compare_indexes(store, dataset, before, check_both)
            else:
                found = compare_objects(store, dataset, before, check_both, read_bytes=depth is Depth.BYTES)
                if found.no_captions:
                    found.problems += rewrite_captions(store, record, found.no_captions, remote)
            check_both()
            if apply_findings(store, queue, lock, dataset, before, found):
                break
            logger.warning("%s: the job was restored while it was compared with the store; again", dataset)
    if depth is Depth.SHARDS:
        logger.info("%s: counted what its %d finished shards hold", dataset, len(before.done))
    else:
        found.problems += _renew_manifest(store, queue, dataset, check)
    return _result(queue, dataset, found)


def _renew_manifest(store: Store, queue: Queue, dataset: str, check: Callable[[], None]) -> list[str]:
    """Compares the manifest with all indexes; what was stale or damaged in it is made anew, and named."""
    before = known_blocks(store, dataset)
    status = queue.status(dataset)
    planned, over = status.counts.planned, status.state.final
    changed = update_manifest(store, queue, dataset, planned, over=over, verify=True, check=check)
    stale = sorted(set(changed) & before)
    return [
        f"block {number} of the manifest was not what the indexes say; it is made anew" for number in stale
    ]


def _result(queue: Queue, dataset: str, found: Findings) -> ReconcileResult:
    """Raises `NotFound`."""
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
        problems=tuple(found.problems[:_MAX_PROBLEMS]),
    )


def _finish_deletion(store: Store, queue: Queue, job: StoredJob) -> bool:
    """Carries on a deletion that was begun, if one was; where that fails, a later repair finds it again."""
    if not job.deleting:
        return False
    dataset = job.record.spec.dataset
    try:
        finish_deletion(store, queue, dataset, patience=0)
        logger.info("the deletion of job %s is finished", dataset)
    except StableRepError as error:
        logger.warning("the deletion of job %s is not finished: %s", dataset, error)
    return True
