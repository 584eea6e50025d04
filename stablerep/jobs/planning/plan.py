"""A job from its request to its last planned shard: created once, planned by anyone.

The store is written before the queue, so that a process may die between any two lines here and the next one
to call `plan` goes on: `create.json`, `dataset.json`, batches of caption objects in order, `planned.json`.
"""

from collections.abc import Collection, Iterator
from datetime import UTC, datetime
from typing import Protocol

from stablerep.captions import Caption, CaptionReport, cut, read_captions
from stablerep.captions.remote.access import STORE_ONLY, Remote
from stablerep.config.recipe import Recipe
from stablerep.errors import AlreadyExists, InvalidInput, NotFound, TornObject
from stablerep.jobs.job import CaptionSource, JobSpec
from stablerep.jobs.planning.caption_writer import CaptionWriter
from stablerep.jobs.planning.sources import identify_source, open_job_source, source_facts
from stablerep.jobs.records import (
    CreateRecord,
    Event,
    PlannedRecord,
    read_create,
    read_events,
    read_planned,
    state_of,
    write_create,
    write_event,
    write_planned,
)
from stablerep.queue.client import Queue
from stablerep.queue.states import JobState
from stablerep.shards.captions_file import write_captions
from stablerep.shards.info import DatasetInfo, write_dataset
from stablerep.shards.layout import MAX_SHARDS, dataset_key
from stablerep.storage.interface import Store

# In the order in which a difference is named: the user's own words first.
_COMPARED = ("source", "seed", "captions_per_shard", "priority")


class StopToken(Protocol):
    """A `threading.Event`, or anything else that can say that it is time to stop."""

    def is_set(self) -> bool: ...


def create_job(store: Store, queue: Queue, spec: JobSpec, remote: Remote = STORE_ONLY) -> JobSpec:
    """Creates a job, still to be planned, and returns its request; the same request again changes nothing.

    Args:
        remote: the URLs besides the store's that captions may be read from.
    Raises:
        AlreadyExists: the dataset is another request's; `field` names what differs.
        NotFound: the caption source does not exist.
    """
    record = _created(store, spec.dataset) or _claim(store, spec, remote)
    _check_same(store, record, spec, remote)
    _write_description(store, record)
    _enqueue(store, queue, record)
    return record.spec


def plan(store: Store, queue: Queue, dataset: str, stop: StopToken, remote: Remote = STORE_ONLY) -> None:
    """Cuts the job's captions into shards and hands them to the queue as they are written.

    Goes on where another planner was stopped or killed; done twice, or by two at once, it changes nothing.
    Returns at a shard boundary when `stop` is set or the job is cancelled. A source that is gone, has changed
    since the job was created or holds no usable caption fails the job.

    Raises:
        NotFound: there is no such job.
        StoreError, Unavailable: try again later.
    """
    record = read_create(store, dataset)
    _write_description(store, record)
    _enqueue(store, queue, record)
    if _is_over(store, queue, dataset):
        return
    planned = read_planned(store, dataset)
    report = CaptionReport()
    try:
        planned = planned or _plan_shards(store, queue, record, report, stop, remote)
    except (InvalidInput, NotFound, TornObject) as error:
        problem = _source_problem(store, record, remote) or (
            str(error) if isinstance(error, InvalidInput) else ""
        )
        if not problem:
            raise
        _fail(store, queue, dataset, problem, report)
        return
    if planned is not None:
        queue.set_planned(dataset, planned.shards)
        queue.finish_planning(dataset)


def rewrite_captions(
    store: Store, record: CreateRecord, shards: Collection[int], remote: Remote = STORE_ONLY
) -> list[str]:
    """Writes captions objects that were lost again, from the source as it was; returns why it could not."""
    spec, missing = record.spec, set(shards)
    what = f"captions of {len(missing)} shards are lost, the first {min(missing)}"
    if problem := _source_problem(store, record, remote):
        return [f"{what}: {problem}"]
    report = CaptionReport()
    for shard, batch in cut(_captions(store, spec.source, report, remote), spec.captions_per_shard):
        if shard in missing:
            write_captions(store, spec.dataset, shard, batch)
            missing.discard(shard)
        if not missing:
            return []
    return [f"captions of {len(missing)} shards are lost and not in the source, the first {min(missing)}"]


def fail_planning(store: Store, queue: Queue, dataset: str, error: str) -> None:
    """Gives up a job whose captions cannot be read, though they seem to be those that they were."""
    _fail(store, queue, dataset, error, CaptionReport())


def _enqueue(store: Store, queue: Queue, record: CreateRecord) -> None:
    """Adds the job to the queue, in place of one of its name whose objects were removed by hand."""
    dataset, priority = record.spec.dataset, record.spec.priority
    if (
        queue.add_job(dataset, priority=priority, job_uid=record.job_uid)
        or queue.job_uid(dataset) == record.job_uid
    ):
        return
    if read_create(store, dataset).job_uid == record.job_uid:
        queue.remove(dataset)
        queue.add_job(dataset, priority=priority, job_uid=record.job_uid)


def _created(store: Store, dataset: str) -> CreateRecord | None:
    try:
        return read_create(store, dataset)
    except NotFound:
        return None


def _claim(store: Store, spec: JobSpec, remote: Remote) -> CreateRecord:
    """The record that has the dataset's name: this request's, or that of one that was quicker."""
    if store.exists(dataset_key(spec.dataset)):
        quicker = _created(store, spec.dataset)
        if quicker is None:
            raise AlreadyExists(
                f"{store.url} has a dataset {spec.dataset} that no job made; choose another name",
                field="dataset",
            )
        return quicker
    identity = identify_source(store, spec.source, remote)
    record = CreateRecord(spec=spec, identity=identity, create_time=datetime.now(UTC))
    return record if write_create(store, record) else read_create(store, spec.dataset)


def _check_same(store: Store, record: CreateRecord, spec: JobSpec, remote: Remote) -> None:
    """Raises `AlreadyExists` unless `spec` asks for what the job in the store is."""
    for field in Recipe.model_fields:
        _check_equal(
            record, f"recipe.{field}", getattr(record.spec.recipe, field), getattr(spec.recipe, field)
        )
    for field in _COMPARED:
        _check_equal(record, field, getattr(record.spec, field), getattr(spec, field))
    try:
        identity = identify_source(store, spec.source, remote)
    except NotFound:  # needed no more once the job is planned; `plan` fails one that is not
        return
    _check_equal(record, "source", record.identity, identity)


def _check_equal(record: CreateRecord, field: str, there: object, asked: object) -> None:
    if there != asked:
        raise AlreadyExists(
            f"dataset {record.spec.dataset} exists with {field} {there!r}, not {asked!r}; "
            "choose another name or ask for the same",
            field=field,
        )


def _write_description(store: Store, record: CreateRecord, planned: PlannedRecord | None = None) -> None:
    spec = record.spec
    info = DatasetInfo(
        name=spec.dataset,
        recipe=spec.recipe.model_dump(),
        recipe_digest=spec.recipe.digest,
        job_seed=spec.seed,
        captions_per_shard=spec.captions_per_shard,
        source=source_facts(spec.source, record.identity),
        counts={"shards": planned.shards, "captions": planned.captions} if planned else {},
        create_time=record.create_time,
    )
    write_dataset(store, info, if_absent=planned is None)


def _is_over(store: Store, queue: Queue, dataset: str) -> bool:
    """Whether the job ended before; if so the queue is told, which may have been lost since."""
    if queue.state(dataset).final:
        return True
    control = state_of(read_events(store, dataset))
    if control.ended is not None:
        queue.set_state(dataset, control.ended, control.error)
    return control.ended is not None


def _plan_shards(
    store: Store, queue: Queue, record: CreateRecord, report: CaptionReport, stop: StopToken, remote: Remote
) -> PlannedRecord | None:
    """Writes and enqueues every shard; None when it was to stop before the end."""
    spec = record.spec
    if problem := _source_problem(store, record, remote):
        raise InvalidInput(problem, field="source")
    written = queue.counts(spec.dataset).planned
    shards = captions = 0
    with CaptionWriter(store, queue, spec.dataset) as writer:
        for shard, batch in cut(_captions(store, spec.source, report, remote), spec.captions_per_shard):
            if stop.is_set():
                writer.finish()
                return None
            if writer.over:
                return None
            if shard >= MAX_SHARDS:
                raise InvalidInput(
                    f"makes more than {MAX_SHARDS:,} shards; choose a larger one", field="captions_per_shard"
                )
            shards, captions = shard + 1, captions + len(batch)
            if shard >= written:
                writer.add(shard, batch)
        writer.finish()
    if writer.over:
        return None
    if problem := _source_problem(store, record, remote):  # replaced while it was read
        raise InvalidInput(problem, field="source")
    planned = PlannedRecord(shards=shards, captions=captions, report=report, identity=record.identity)
    _write_description(store, record, planned)
    write_planned(store, spec.dataset, planned)
    return planned


def _captions(
    store: Store, source: CaptionSource, report: CaptionReport, remote: Remote
) -> Iterator[Caption]:
    return read_captions(
        open_job_source(store, source, remote),
        format=source.format,
        column=source.column,
        header=source.header,
        limit=source.limit,
        report=report,
    )


def _source_problem(store: Store, record: CreateRecord, remote: Remote) -> str:
    """Why the source is not what the job was created for; empty when it is."""
    name = record.spec.source.uri or f"upload {record.spec.source.upload_id}"
    try:
        identity = identify_source(store, record.spec.source, remote)
    except NotFound:
        return f"the caption source {name} is gone; create the job anew under another name"
    except (
        InvalidInput,
        TornObject,
    ) as error:  # of a URL: no longer allowed, or answered otherwise than before
        return f"the caption source cannot be read: {error}"
    if identity != record.identity:
        return f"the caption source {name} has changed since; create the job anew under another name"
    return ""


def _fail(store: Store, queue: Queue, dataset: str, error: str, report: CaptionReport) -> None:
    write_event(store, dataset, Event(kind="fail", error=error, report=report))
    queue.set_state(dataset, JobState.FAILED, error)
