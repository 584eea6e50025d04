"""What the store says of a job, which is the state that the queue must have."""

import logging
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime

from stablerep.config.names import DATASET_NAME
from stablerep.errors import NotFound, TornObject
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
from stablerep.queue.states import JobState
from stablerep.shards.layout import DATASETS, MAX_SHARDS, captions_prefix, dead_prefix, index_prefix
from stablerep.storage.interface import Store

logger = logging.getLogger("stablerep.queue")


@dataclass(frozen=True)
class StoredJob:
    """A job's records; its shards as well once `with_shards` has listed them.

    Attributes:
        planned: shards planned; of a job that is still being planned, those with a captions object.
        end_time: of a job that was cancelled, or failed by its source; others end with their last shard.
    """

    record: CreateRecord
    control: ControlState
    planned_all: bool
    planned: int = 0
    done: ShardBits = field(default_factory=ShardBits)
    dead: tuple[tuple[int, str], ...] = ()
    end_time: datetime | None = None

    @property
    def deleting(self) -> bool:
        return self.record.deleting or self.control.deletion is not None

    @property
    def state(self) -> JobState:
        """The job's state, except for its end by its last shard, which the queue finds by itself."""
        if self.control.ended is not None:
            return self.control.ended
        if self.control.paused:
            return JobState.PAUSED
        return JobState.RUNNING if self.planned_all else JobState.PLANNING


def job_names(store: Store) -> Iterator[str]:
    """Names of the datasets, sorted; not each was made by a job."""
    for name in store.children(DATASETS):
        if name.endswith("/") and DATASET_NAME.fullmatch(name[:-1]):
            yield name[:-1]


def read_job(store: Store, dataset: str) -> StoredJob | None:
    """The job's records; None if there is no such job, or if they cannot be read, which is logged."""
    try:
        record = read_create(store, dataset)
        control = state_of(read_events(store, dataset))
        planned = read_planned(store, dataset)
    except NotFound:
        return None
    except TornObject as error:
        logger.error("job %s is left out of the queue: %s", dataset, error)
        return None
    return StoredJob(record, control, planned is not None, planned.shards if planned else 0)


def with_shards(store: Store, job: StoredJob, check: Callable[[], None]) -> StoredJob:
    """Lists which shards are done and dead: for a million shards a minute or two.

    Args:
        check: called between listings; what it raises ends them.
    """
    dataset, count = job.record.spec.dataset, job.planned
    if not job.planned_all:
        count = gapless(shards_below(store, captions_prefix(dataset), MAX_SHARDS))
    done = ShardBits()
    for shard in shards_below(store, index_prefix(dataset), count):
        done.add(shard)
    check()
    dead_shards = (shard for shard in shards_below(store, dead_prefix(dataset), count) if shard not in done)
    letters = read_each(lambda shard: (shard, read_dead(store, dataset, shard)), dead_shards, check)
    return replace(
        job,
        planned=count,
        done=done,
        dead=tuple((shard, error) for shard, error in letters if error is not None),
        end_time=time_of_end(store, dataset) if job.control.ended is not None else None,
    )
