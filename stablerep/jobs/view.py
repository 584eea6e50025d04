"""A job as users see it: state and counts from the queue, all else from the store."""

from dataclasses import dataclass
from datetime import UTC, datetime

from stablerep.captions import CaptionReport
from stablerep.config.recipe import Recipe
from stablerep.jobs.job import CaptionSource
from stablerep.jobs.outlook import Outlook, outlook
from stablerep.jobs.records import read_create, read_events, read_planned, state_of
from stablerep.queue.client import JobStatus, Queue
from stablerep.queue.leases import ShardState
from stablerep.queue.states import Counts, JobState
from stablerep.queue.stats import QueueStats
from stablerep.storage.interface import Store


@dataclass(frozen=True)
class JobView:
    """All there is to say of a job; the fields are those of `Job` in generation.proto."""

    dataset: str
    state: JobState
    recipe: Recipe
    source: CaptionSource
    seed: int
    captions_per_shard: int
    priority: int
    counts: Counts
    captions: int
    report: CaptionReport | None  # None while the job is being planned
    create_time: datetime
    end_time: datetime | None
    error: str
    outlook: Outlook | None
    worker_seconds: float


def job_view(store: Store, queue: Queue, dataset: str, stats: QueueStats | None = None) -> JobView:
    """A job as it is now: state and counts from the queue, all else from the store. Raises `NotFound`.

    Args:
        stats: of the queue, for where it stands among other jobs; None: that is left out.
    """
    status = queue.status(dataset)
    record = read_create(store, dataset)
    spec = record.spec
    planned = read_planned(store, dataset) if status.planned_all else None
    return JobView(
        dataset=dataset,
        state=status.state,
        recipe=spec.recipe,
        source=spec.source,
        seed=spec.seed,
        captions_per_shard=spec.captions_per_shard,
        priority=spec.priority,
        counts=status.counts,
        captions=planned.captions if planned else status.counts.planned * spec.captions_per_shard,
        report=planned.report if planned else _report_of_failure(store, status, dataset),
        create_time=record.create_time,
        end_time=status.end_time,
        error=status.error or _error_of_dead(queue, status, dataset),
        outlook=outlook(stats, dataset, datetime.now(UTC)) if stats else None,
        worker_seconds=status.worker_seconds,
    )


def _report_of_failure(store: Store, status: JobStatus, dataset: str) -> CaptionReport | None:
    if status.state is not JobState.FAILED:
        return None
    return state_of(read_events(store, dataset)).report


def _error_of_dead(queue: Queue, status: JobStatus, dataset: str) -> str:
    if status.state is not JobState.FAILED:
        return ""
    counts, first = status.counts, queue.shards(dataset, 0, 1, ShardState.DEAD)
    if not first:
        return ""
    return f"{counts.dead} of {counts.planned} shards are dead; shard {first[0].number}: {first[0].error}"
