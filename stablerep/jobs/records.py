"""What the store keeps of a job in `datasets/<dataset>/job/`: the request, the end of planning, events."""

import json
import time
from collections.abc import Iterator
from datetime import datetime
from typing import Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stablerep.captions import CaptionReport
from stablerep.errors import NotFound, TornObject
from stablerep.jobs.job import JobSpec
from stablerep.jobs.sources import SourceIdentity
from stablerep.storage.layout import (
    create_key,
    dead_key,
    event_key,
    events_prefix,
    planned_key,
)
from stablerep.storage.store import Store

Record = TypeVar("Record", bound=BaseModel)


class CreateRecord(BaseModel):
    """`create.json`: what was asked for, and the source as it was then. Written first, and once."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    spec: JobSpec
    identity: SourceIdentity
    create_time: datetime


class PlannedRecord(BaseModel):
    """`planned.json`: what planning came to. Written last; without it a job is still being planned."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    shards: int
    captions: int
    report: CaptionReport
    identity: SourceIdentity


class Event(BaseModel):
    """One control event; a job that `cancel` or `fail` ended never goes on."""

    model_config = ConfigDict(frozen=True)

    kind: Literal["cancel", "fail"]
    error: str = ""
    report: CaptionReport | None = None


def write_create(store: Store, record: CreateRecord) -> bool:
    """Claims the dataset's name for a request; False when another one has it."""
    return store.put(create_key(record.spec.dataset), _json(record), if_absent=True)


def read_create(store: Store, dataset: str) -> CreateRecord:
    """Raises `NotFound` when no job has this name."""
    record = _read(store, create_key(dataset), CreateRecord)
    if record is None:
        raise NotFound(f"there is no job for the dataset {dataset} in {store.url}")
    return record


def write_planned(store: Store, dataset: str, record: PlannedRecord) -> None:
    store.put(planned_key(dataset), _json(record))


def read_planned(store: Store, dataset: str) -> PlannedRecord | None:
    """None while the job is being planned, and for ever when its planning failed or was cancelled."""
    return _read(store, planned_key(dataset), PlannedRecord)


def write_event(store: Store, dataset: str, event: Event) -> None:
    store.put(event_key(dataset, time.time_ns(), event.kind), _json(event))


def read_events(store: Store, dataset: str) -> Iterator[Event]:
    """The events of a job in order of time."""
    for info in store.list(events_prefix(dataset)):
        event = _read(store, info.key, Event)
        if event is not None:
            yield event


def write_dead(store: Store, dataset: str, shard: int, error: str) -> None:
    """Keeps a dead shard's error; a shard that is done after all has an index, which counts for more."""
    text = json.dumps({"shard": shard, "error": error}, sort_keys=True)
    store.put(dead_key(dataset, shard), text.encode(), if_absent=True)


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
