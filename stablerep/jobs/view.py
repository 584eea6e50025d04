"""A job as users see it: state and counts from the queue, all else from the store."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime

from stablerep.captions import CaptionReport
from stablerep.config.recipe import Recipe
from stablerep.errors import NotFound, TornObject
from stablerep.jobs.job import CaptionSource
from stablerep.jobs.outlook import Outlook, outlook
from stablerep.jobs.records import (
    CreateRecord,
    PlannedRecord,
    read_create,
    read_events,
    read_planned,
    state_of,
)
from stablerep.queue.client import Queue
from stablerep.queue.leases import JobStatus, ShardState
from stablerep.queue.states import Counts, JobState
from stablerep.queue.stats import QueueStats
from stablerep.storage.interface import Store
from stablerep.warn import warn_once

_READERS = 16
_MOST_KNOWN = 10_000


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


@dataclass(frozen=True)
class _Records:
    """What the store says of a job, for as long as it has this creation and state."""

    created: CreateRecord
    planned: PlannedRecord | None
    report: CaptionReport | None


def job_view(store: Store, queue: Queue, dataset: str, stats: QueueStats | None = None) -> JobView:
    """A job as it is now: state and counts from the queue, all else from the store. Raises `NotFound`.

    Args:
        stats: of the queue, for where it stands among other jobs; None: that is left out.
    """
    status = queue.status(dataset)
    return _view(queue, dataset, status, _records(store, status, dataset), stats)


class JobViews:
    """Views of many jobs at once, for those who look often: each job's records are read once.

    They do not change while a job has the same creation, end and state. A job whose records were removed by
    hand is therefore shown for as long as the queue has it; one whose records were never read is left out.
    """

    def __init__(self, store: Store, queue: Queue) -> None:
        self._store, self._queue = store, queue
        self._known: dict[tuple[str, datetime, datetime | None, JobState, bool], _Records] = {}

    def views(self, datasets: Sequence[str], stats: QueueStats | None = None) -> list[JobView]:
        """Those of `datasets` that there are, in their order; arguments as of `job_view`."""
        found = zip(datasets, self._queue.statuses(datasets), strict=True)
        statuses = {dataset: status for dataset, status in found if status is not None}
        records = {
            name: known for name in statuses if (known := self._known.get((name, *_version(statuses[name]))))
        }
        new = [name for name in statuses if name not in records]
        if new:
            with ThreadPoolExecutor(min(len(new), _READERS), thread_name_prefix="records") as readers:
                read = list(readers.map(lambda name: self._read(name, statuses[name]), new))
            records |= {name: there for name, there in zip(new, read, strict=True) if there is not None}
            self._keep(statuses, {name: records[name] for name in new if name in records})
        return [
            _view(self._queue, name, status, records[name], stats)
            for name, status in statuses.items()
            if name in records
        ]

    def _keep(self, statuses: dict[str, JobStatus], records: dict[str, _Records]) -> None:
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        for name, record in records.items():
            if record.planned is not None or not statuses[name].planned_all:
                self._known[(name, *_version(statuses[name]))] = record

    def _read(self, dataset: str, status: JobStatus) -> _Records | None:
        try:
            return _records(self._store, status, dataset)
        except NotFound:
            return None
        except TornObject as error:  # asking for this very job says so; the others are still to be listed
            warn_once("stablerep.jobs", f"job {dataset} is left out of the list: {error}")
            return None


def _version(status: JobStatus) -> tuple[datetime, datetime | None, JobState, bool]:
    return status.create_time, status.end_time, status.state, status.planned_all


def _records(store: Store, status: JobStatus, dataset: str) -> _Records:
    return _Records(
        created=read_create(store, dataset),
        planned=read_planned(store, dataset) if status.planned_all else None,
        report=_report_of_failure(store, status, dataset),
    )


def _view(
    queue: Queue, dataset: str, status: JobStatus, records: _Records, stats: QueueStats | None
) -> JobView:
    spec, planned = records.created.spec, records.planned
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
        report=planned.report if planned else records.report,
        create_time=records.created.create_time,
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
