"""What the store keeps of a job in `datasets/<dataset>/job/`: the request, the end of planning, events."""

import json
import time
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stablerep.captions import CaptionReport
from stablerep.errors import NotFound, TornObject, Unavailable
from stablerep.jobs.job import JobSpec
from stablerep.jobs.planning.sources import SourceIdentity
from stablerep.queue.states import JobState
from stablerep.shards.layout import (
    create_key,
    dead_key,
    dead_prefix,
    event_key,
    events_prefix,
    planned_key,
)
from stablerep.storage.interface import Store

_TRIES = 10
Record = TypeVar("Record", bound=BaseModel)


class CreateRecord(BaseModel):
    """`create.json`: what was asked for, and the source as it was then. Written first, and once.

    Only a deletion writes it again, with `deleting` set: it is the last object of a job to go.
    """

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    spec: JobSpec
    identity: SourceIdentity
    create_time: datetime
    deleting: bool = False

    @property
    def job_uid(self) -> str:
        """Distinguishes the job from earlier and later ones of its name."""
        return self.create_time.isoformat()


class PlannedRecord(BaseModel):
    """`planned.json`: what planning came to. Written last; without it a job is still being planned."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    shards: int
    captions: int
    report: CaptionReport
    identity: SourceIdentity


class Event(BaseModel):
    """One control event: a job ended by `cancel` or `fail` never resumes; a `delete` is always finished."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["cancel", "fail", "pause", "resume", "retry", "delete"]
    error: str = ""  # of a fail
    report: CaptionReport | None = None  # of a fail
    shards: tuple[int, ...] = ()  # of a retry
    delete_data: bool = False  # of a delete


@dataclass(frozen=True)
class ControlState:
    """The state that a job's events add up to.

    `ended` is CANCELLED or FAILED (by its source, with `error` and `report`), or None: then the job continues
    as its shards say, PAUSED while `paused`. With `deletion` it is to be removed, whatever else was said.
    """

    ended: JobState | None = None
    error: str = ""
    report: CaptionReport | None = None
    paused: bool = False
    deletion: Event | None = None


def state_of(events: Iterable[Event]) -> ControlState:
    """Folds a job's events, in order of time: the first end stays, the last of pause and resume counts."""
    state = ControlState()
    for event in events:
        if event.kind == "delete":
            state = replace(state, deletion=event)
        elif event.kind in ("pause", "resume"):
            state = replace(state, paused=event.kind == "pause")
        elif state.ended is None and event.kind == "cancel":
            state = replace(state, ended=JobState.CANCELLED)
        elif state.ended is None and event.kind == "fail":
            state = replace(state, ended=JobState.FAILED, error=event.error, report=event.report)
    return state


def write_create(store: Store, record: CreateRecord) -> bool:
    """Claims the dataset's name for a request; False when another one has it."""
    return store.put(create_key(record.spec.dataset), _json(record), if_absent=True)


def read_create(store: Store, dataset: str) -> CreateRecord:
    """Raises `NotFound` when no job has this name."""
    record = _read(store, create_key(dataset), CreateRecord)
    if record is None:
        raise NotFound(f"there is no job for the dataset {dataset} in {store.url}")
    return record


def mark_deleting(store: Store, record: CreateRecord) -> None:
    """Says in `create.json` that the job is being deleted, for when the event that says so is gone."""
    if not record.deleting:
        store.put(create_key(record.spec.dataset), _json(record.model_copy(update={"deleting": True})))


def write_planned(store: Store, dataset: str, record: PlannedRecord) -> None:
    store.put(planned_key(dataset), _json(record))


def read_planned(store: Store, dataset: str) -> PlannedRecord | None:
    """None while the job is being planned, and for ever when its planning failed or was cancelled."""
    return _read(store, planned_key(dataset), PlannedRecord)


def write_event(store: Store, dataset: str, event: Event) -> str:
    """Adds an event after all that are there, however the clocks of their writers differ; returns its key.

    Raises `Unavailable` when others kept taking the place.
    """
    for _ in range(_TRIES):
        last = max((_time_of(info.key) for info in store.list(events_prefix(dataset))), default=-1)
        key = event_key(dataset, max(time.time_ns(), last + 1), event.kind)
        if store.put(key, _json(event), if_absent=True):
            return key
    raise Unavailable(f"others keep writing events of {dataset} in {store.url}; try again")


def read_events(store: Store, dataset: str) -> Iterator[Event]:
    """The events of a job in order of time."""
    for info in store.list(events_prefix(dataset)):
        event = _read(store, info.key, Event)
        if event is not None:
            yield event


def time_of_end(store: Store, dataset: str) -> datetime | None:
    """When a job was cancelled, or failed by its source; None for one that was not."""
    for info in store.list(events_prefix(dataset)):
        if info.key.endswith(("-cancel.json", "-fail.json")):
            return datetime.fromtimestamp(_time_of(info.key) / 1e9, UTC)
    return None


def write_dead(store: Store, dataset: str, shard: int, error: str) -> None:
    """Keeps a dead shard's error; a shard that is done after all has an index, which counts for more."""
    text = json.dumps({"shard": shard, "error": error}, sort_keys=True)
    store.put(dead_key(dataset, shard), text.encode(), if_absent=True)


def read_dead(store: Store, dataset: str, shard: int) -> str | None:
    """The error of a dead shard; None where there is no such letter, or one that cannot be read."""
    try:
        return str(json.loads(store.get(dead_key(dataset, shard)))["error"])
    except (NotFound, ValueError, TypeError, KeyError):
        return None


def remove_dead(store: Store, dataset: str, shards: Collection[int] = ()) -> None:
    """Forgets that shards were given up, those named or all: they are to be tried again."""
    keys = (dead_key(dataset, shard) for shard in shards)
    store.delete_many(keys if shards else (info.key for info in store.list(dead_prefix(dataset))))


def _time_of(key: str) -> int:
    """The time in an event's key; of a file that is none, one that any event is later than."""
    digits = key.rpartition("/")[2].partition("-")[0]
    return int(digits) if digits.isdecimal() and len(digits) == 20 else -1


def _read(store: Store, key: str, kind: type[Record]) -> Record | None:
    try:
        data = store.get(key)
    except NotFound:
        return None
    try:
        return kind.model_validate_json(data)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TornObject(f"{key} in {store.url} cannot be read: {where}: {first['msg']}") from error


def _json(record: BaseModel) -> bytes:
    return (record.model_dump_json(indent=2) + "\n").encode()
