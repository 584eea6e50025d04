"""A run as users see it, put together from its records in the store alone."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from stablerep.errors import NotFound
from stablerep.runs.records import (
    CreateRecord,
    EndRecord,
    Progress,
    StatusRecord,
    now,
    read_create,
    read_end,
    read_progress,
    read_result,
    read_status,
)
from stablerep.runs.spec import RunSpec
from stablerep.shards.layout import run_key
from stablerep.storage.interface import Store
from stablerep.storage.json_objects import read_json

STALE = timedelta(minutes=5)
"""A run of `stablerep train` that reported nothing for so long counts as stopped."""


class RunState(StrEnum):
    """The states of `Run` in training.proto."""

    QUEUED = "QUEUED"
    RUNNING = "RUNNING"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"
    STOPPED = "STOPPED"

    @property
    def final(self) -> bool:
        """Whether nothing changes by itself any more."""
        return self not in (RunState.QUEUED, RunState.RUNNING)


@dataclass(frozen=True)
class RunView:
    """All there is to say of a run; the fields are those of `Run` in training.proto.

    Attributes:
        create: None for a run that was started without the service.
        config: the resolved configuration as JSON; empty for a probe.
    """

    run: str
    state: RunState
    create: CreateRecord | None
    config: str
    progress: Progress | None
    status: StatusRecord | None
    end: EndRecord | None
    result: dict[str, Any] | None

    @property
    def spec(self) -> RunSpec | None:
        return self.create.spec if self.create else None

    @property
    def steps(self) -> int:
        """Of the whole run; 0 while nobody has said so."""
        if self.spec:
            return self.spec.steps
        return self.progress.steps if self.progress else 0


def run_view(store: Store, run: str) -> RunView:
    """A run as it is now. Raises NotFound."""
    create = read_create(store, run)
    # The end is read first: whoever writes a result writes the end after it, so a final state has its result.
    end, result = read_end(store, run), read_result(store, run)
    progress = read_progress(store, run)
    status = read_status(store, run) if create else None
    config = _config(store, run, create)
    if create is None and not config:
        raise NotFound(f"there is no run {run} in {store.url}")
    state = _state(create, end, status, progress, finished=result is not None)
    return RunView(run, state, create, config, progress, status, end, result)


def _config(store: Store, run: str, create: CreateRecord | None) -> str:
    if create is not None:
        return create.spec.train.model_dump_json() if create.spec.train else ""
    try:
        return json.dumps(read_json(store, run_key(run, "config.json")))
    except NotFound:
        return ""


def _state(
    create: CreateRecord | None,
    end: EndRecord | None,
    status: StatusRecord | None,
    progress: Progress | None,
    *,
    finished: bool,
) -> RunState:
    if finished:
        return RunState.SUCCEEDED
    if end is not None:
        return RunState(end.state)
    if create is not None:
        return RunState.RUNNING if status and status.running else RunState.QUEUED
    alive = progress is not None and now() - progress.time < STALE
    return RunState.RUNNING if alive else RunState.STOPPED


def start_time(view: RunView) -> datetime | None:
    """When its first process was seen."""
    return view.status.start_time if view.status else None
