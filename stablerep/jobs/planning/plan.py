"""Planning: a job's captions cut into shards, by whichever process comes to it.

The store is written before the queue, so that a process may die between any two lines here and the next one
to call `plan` resumes: `dataset.json`, batches of caption objects in order, `planned.json`.
"""

from collections.abc import Collection, Iterator
from typing import Protocol

from stablerep.captions import Caption, CaptionReport, Source, cut, read_captions
from stablerep.captions.remote.access import STORE_ONLY, Remote
from stablerep.errors import InvalidInput, NotFound, TornObject
from stablerep.jobs.job import CaptionSource
from stablerep.jobs.planning.caption_writer import CaptionWriter
from stablerep.jobs.planning.create import enqueue, write_description
from stablerep.jobs.planning.plan_writer import PlanWriter
from stablerep.jobs.planning.sources import look_up
from stablerep.jobs.records import (
    CreateRecord,
    Event,
    PlannedRecord,
    read_create,
    read_events,
    read_planned,
    state_of,
    write_event,
    write_planned,
)
from stablerep.queue.client import Queue
from stablerep.queue.states import JobState
from stablerep.shards.captions_file import write_captions
from stablerep.shards.layout import MAX_SHARDS
from stablerep.storage.interface import Store


class StopToken(Protocol):
    """A `threading.Event`, or anything else that can say that it is time to stop."""

    def is_set(self) -> bool: ...


def plan(store: Store, queue: Queue, dataset: str, stop: StopToken, remote: Remote = STORE_ONLY) -> None:
    """Cuts the job's captions into shards and hands them to the queue as they are written.

    Resumes where another planner was stopped or killed; done twice, or by two at once, it changes nothing.
    Returns at a shard boundary when `stop` is set or the job is cancelled. A source that is gone, has changed
    since the job was created or holds no usable caption fails the job.

    Raises:
        NotFound: there is no such job.
        StoreError, Unavailable: try again later.
    """
    record = read_create(store, dataset)
    write_description(store, record)
    enqueue(store, queue, record)
    if _is_over(store, queue, dataset):
        return
    planned = read_planned(store, dataset)
    report = CaptionReport()
    try:
        planned = planned or _plan_shards(store, queue, record, report, stop, remote)
    except (InvalidInput, NotFound, TornObject) as error:
        problem = _source_problem(store, record, remote) or error
        if not isinstance(problem, InvalidInput):
            raise
        _fail(store, queue, dataset, str(problem), report)
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
    try:
        source = _same_source(store, record, remote)
    except InvalidInput as error:
        return [f"{what}: {error}"]
    captions = _captions(source, spec.source, CaptionReport())
    for shard, batch in cut(captions, spec.captions_per_shard):
        if shard in missing:
            write_captions(store, spec.dataset, shard, batch)
            missing.discard(shard)
        if not missing:
            return []
    return [f"captions of {len(missing)} shards are lost and not in the source, the first {min(missing)}"]


def fail_planning(store: Store, queue: Queue, dataset: str, error: str) -> None:
    """Gives up a job whose captions cannot be read, though they seem to be those that they were."""
    _fail(store, queue, dataset, error, CaptionReport())


def _is_over(store: Store, queue: Queue, dataset: str) -> bool:
    """Whether the job ended before; if so the queue gets its end again, which it may have lost."""
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
    source = _same_source(store, record, remote)
    written = queue.counts(spec.dataset).planned
    shards = captions = 0
    plan = PlanWriter(store, spec.dataset)
    with CaptionWriter(store, queue, spec.dataset) as writer:
        for shard, batch in cut(_captions(source, spec.source, report), spec.captions_per_shard):
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
            plan.add(batch)
            if shard >= written:
                writer.add(shard, batch)
        writer.finish()
    if writer.over:
        return None
    plan.finish()
    _same_source(store, record, remote)  # it may have been replaced while it was read
    planned = PlannedRecord(shards=shards, captions=captions, report=report, identity=record.identity)
    write_description(store, record, planned)
    write_planned(store, spec.dataset, planned)
    return planned


def _captions(source: Source, asked: CaptionSource, report: CaptionReport) -> Iterator[Caption]:
    return read_captions(
        source,
        format=asked.format,
        column=asked.column,
        header=asked.header,
        limit=asked.limit,
        report=report,
    )


def _same_source(store: Store, record: CreateRecord, remote: Remote) -> Source:
    """The source; raises InvalidInput if it is not what the job was created for."""
    name = record.spec.source.uri or f"upload {record.spec.source.upload_id}"
    remedy = "create the job under another name"
    try:
        identity, source = look_up(store, record.spec.source, remote)
    except NotFound:
        raise InvalidInput(f"the caption source {name} is gone; {remedy}") from None
    except (InvalidInput, TornObject) as error:  # of a URL: no longer allowed, or another answer than before
        raise InvalidInput(f"the caption source cannot be read: {error}") from error
    if identity != record.identity:
        raise InvalidInput(f"the caption source {name} has changed since; {remedy}")
    return source


def _source_problem(store: Store, record: CreateRecord, remote: Remote) -> InvalidInput | None:
    try:
        _same_source(store, record, remote)
    except InvalidInput as error:
        return error
    return None


def _fail(store: Store, queue: Queue, dataset: str, error: str, report: CaptionReport) -> None:
    write_event(store, dataset, Event(kind="fail", error=error, report=report))
    queue.set_state(dataset, JobState.FAILED, error)
