"""The queue anew from the store, when Redis lost everything: every job as its objects say, then a new epoch.

Until the epoch begins nothing is leased, and steps that change a job are refused, so that none is lost
between what the store said and what is written here. A process that dies half-way leaves its lock to run out,
and the next one begins anew. Of all processes one rebuilds; the others go on asking.

To know which shards are done takes a listing. How much they hold takes reading every index: that comes later,
while workers work again (recount.py).
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import datetime
from itertools import islice

from stablerep.config.names import DATASET_NAME
from stablerep.errors import NotFound, StableRepError, TornObject, Unavailable
from stablerep.jobs.control import finish_deletion
from stablerep.jobs.planning.plan import StopToken
from stablerep.jobs.records import (
    ControlState,
    CreateRecord,
    read_create,
    read_dead,
    read_events,
    read_planned,
    state_of,
    time_of_end,
)
from stablerep.jobs.recovery.indexes import ShardBits, gapless, read_each, shards_below
from stablerep.queue.client import Queue
from stablerep.queue.lock import hold
from stablerep.queue.states import JobState
from stablerep.shards.layout import (
    DATASETS,
    MAX_SHARDS,
    captions_prefix,
    create_key,
    dead_prefix,
    index_prefix,
)
from stablerep.storage.interface import Store

logger = logging.getLogger("stablerep.queue")

_REBUILD = "sr:rebuild"
_DEAD_AT_A_TIME = 500
_NEVER = threading.Event()


@dataclass(frozen=True)
class StoredJob:
    """All that the store says of a job and the queue has to know."""

    record: CreateRecord
    control: ControlState
    planned: int
    planned_all: bool
    done: ShardBits
    dead: dict[int, str]
    end_time: datetime | None
    """Of a job that was cancelled, or failed by its source; when its last shard ended one is not known."""

    @property
    def deleting(self) -> bool:
        return self.record.deleting or self.control.deletion is not None

    @property
    def state(self) -> JobState:
        """Where the job is, but for its end by its last shard, which the queue finds by itself."""
        if self.control.ended is not None:
            return self.control.ended
        if self.control.paused:
            return JobState.PAUSED
        return JobState.RUNNING if self.planned_all else JobState.PLANNING


def ensure_queue(store: Store, queue: Queue, stop: StopToken = _NEVER) -> bool:
    """Whether the queue may be used; if Redis lost everything, rebuilds it first, or lets another do so.

    Cheap while there is an epoch. A rebuild lists the index objects of the store's jobs: a minute or two for
    a million shards. What they hold is to be counted afterwards (`backfill_totals`).

    Args:
        stop: ends a rebuild soon, to be begun anew by another process.
    Raises:
        StoreError, Unavailable: try again later.
    """
    if queue.epoch() is not None:
        return True
    with hold(queue, _REBUILD) as lock:
        if lock is None:
            return queue.epoch() is not None

        def check() -> None:
            lock.check()
            if stop.is_set():
                raise Unavailable("the rebuild of the queue was stopped; another process begins it anew")

        logger.warning("the queue has no epoch: rebuilding it from %s", store.url)
        began = time.monotonic()
        jobs = shards = 0
        deleting: list[str] = []
        for dataset in job_names(store):
            check()
            job = read_job(store, dataset, check)
            if job is not None and job.deleting:
                deleting.append(dataset)
            elif job is not None:
                _put(queue, job, lock.token)
                jobs, shards = jobs + 1, shards + len(job.done)
        queue.begin_epoch(lock.token)
    logger.warning("rebuilt: %d jobs, %d finished shards, in %.1f s", jobs, shards, time.monotonic() - began)
    for dataset in deleting:
        _finish_deletion(store, queue, dataset)
    return True


def restore_absent(store: Store, queue: Queue, dataset: str = "") -> list[str]:
    """Adds jobs that the store has and a living queue has not, for want of a step; returns their names.

    Args:
        dataset: this one alone; empty: all.
    Raises:
        StoreError, Unavailable: try again later.
    """
    known = set(queue.jobs())
    names = [dataset] if dataset else list(job_names(store))
    added = []
    for name in names:
        job = None if name in known else read_job(store, name, _nothing)
        if job is not None and job.deleting:
            _finish_deletion(store, queue, name)
            continue
        if job is None:
            continue
        if not _put(queue, job, ""):
            if name not in queue.jobs():
                queue.end_epoch()  # the set of jobs is lost: a rebuild makes it again
            continue
        if store.exists(create_key(name)):
            added.append(name)
        else:  # deleted between the two looks
            queue.remove(name)
    return added


def job_names(store: Store) -> Iterator[str]:
    """Names of the datasets, sorted; not each was made by a job."""
    for name in store.children(DATASETS):
        if name.endswith("/") and DATASET_NAME.fullmatch(name[:-1]):
            yield name[:-1]


def read_job(store: Store, dataset: str, check: Callable[[], None]) -> StoredJob | None:
    """What the store says of a job; None where there is none. Of one that is being deleted, only that.

    A job whose records cannot be read is logged and left out.
    """
    try:
        record = read_create(store, dataset)
        control = state_of(read_events(store, dataset))
        planned = read_planned(store, dataset)
    except NotFound:
        return None
    except TornObject as error:
        logger.error("job %s is left out of the queue: %s", dataset, error)
        return None
    job = StoredJob(record, control, 0, planned is not None, ShardBits(), {}, None)
    if job.deleting:
        return job
    if planned is not None:
        count = planned.shards
    else:
        count = gapless(shards_below(store, captions_prefix(dataset), MAX_SHARDS))
    done = ShardBits()
    for shard in shards_below(store, index_prefix(dataset), count):
        done.add(shard)
    check()
    dead_shards = shards_below(store, dead_prefix(dataset), count)
    dead = dict(read_each(lambda shard: (shard, read_dead(store, dataset, shard)), dead_shards, check))
    return replace(
        job,
        planned=count,
        done=done,
        dead={shard: error for shard, error in dead.items() if shard not in done and error is not None},
        end_time=time_of_end(store, dataset) if control.ended is not None else None,
    )


def _put(queue: Queue, job: StoredJob, token: str) -> bool:
    """Puts a job in place; without a token only where there is none of its name."""
    fields: dict[str, str | int] = {
        "state": job.state.value,
        "priority": job.record.spec.priority,
        "planned": job.planned,
        "complete": int(job.planned_all),
        "groups": 0,
        "images": 0,
        "skipped": 0,
        "job_uid": job.record.job_uid,
        "create_time": f"{job.record.create_time.timestamp():.6f}",
        "end_time": f"{job.end_time.timestamp():.6f}" if job.end_time else "",
        "error": job.control.error,
    }
    dataset = job.record.spec.dataset
    flat = [word for pair in fields.items() for word in pair]
    if not queue.run_script("restore", token, dataset, bytes(job.done), *flat):
        return False
    letters = iter(job.dead.items())
    while chunk := tuple(islice(letters, _DEAD_AT_A_TIME)):
        queue.run_script("restore_dead", token, dataset, *(word for letter in chunk for word in letter))
    return True


def _finish_deletion(store: Store, queue: Queue, dataset: str) -> None:
    """Carries on a deletion that was begun; where that fails, the next rebuild finds it again."""
    try:
        finish_deletion(store, queue, dataset, patience=0)
        logger.info("the deletion of job %s is finished", dataset)
    except StableRepError as error:
        logger.warning("the deletion of job %s is not finished: %s", dataset, error)


def _nothing() -> None:
    pass
