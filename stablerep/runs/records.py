"""What the store keeps of a run beside what it learns: the request, its end, and where its processes are.

runs/<run>/job/create.json    what was asked for; written first
runs/<run>/job/end.json       how it ended; the first to write it decides
runs/<run>/job/resumed.json   how often a run that had ended was resumed
runs/<run>/job/status.json    where its processes are and what it waits for, as its launcher sees it
runs/<run>/job/logs/0.log     the end of what machine 0 printed
runs/<run>/progress.json      the last step that was reported
runs/<run>/result.json        what it came to; a run that has it SUCCEEDED
active-runs/<run>             there from before it is created until it is over and its processes are gone
"""

from datetime import UTC, datetime
from typing import Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from stablerep.config.names import DATASET_NAME
from stablerep.errors import NotFound, TornObject
from stablerep.runs.spec import RunSpec
from stablerep.shards.layout import ACTIVE_RUNS, RUNS, active_run_key, run_key
from stablerep.storage.interface import Store
from stablerep.storage.json_objects import read_json
from stablerep.warn import warn_once

RunEnd = Literal["SUCCEEDED", "FAILED", "CANCELLED"]
Record = TypeVar("Record", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True)


class CreateRecord(_Frozen):
    """`create.json`: written first, and once."""

    schema_version: Literal[1] = 1
    spec: RunSpec
    create_time: datetime


class EndRecord(_Frozen):
    """`end.json`: the end of a run, until it is resumed."""

    state: RunEnd
    error: str = ""
    time: datetime


class ResumedRecord(_Frozen):
    """`resumed.json`."""

    times: int


class StatusRecord(_Frozen):
    """`status.json`: what the launcher saw last. Kept only to be shown; a lost one is written again.

    Attributes:
        running: a process of the run is there.
        message: what it waits for, or where its processes are.
        restarts: how often processes were started again.
    """

    running: bool
    message: str = ""
    restarts: int = 0
    start_time: datetime | None = None


class Progress(_Frozen):
    """`progress.json`: the run after `step` steps."""

    step: int
    steps: int
    time: datetime
    loss: float | None = None
    views_per_second: float = 0.0
    expected_end_time: datetime | None = None


def now() -> datetime:
    """This moment in UTC, in whole milliseconds, as records keep it."""
    moment = datetime.now(UTC)
    return moment.replace(microsecond=moment.microsecond // 1000 * 1000)


def create_run(store: Store, spec: RunSpec) -> bool:
    """Claims the run's name; False when another request has it."""
    store.put(active_run_key(spec.run), b"")
    record = CreateRecord(spec=spec, create_time=now())
    return store.put(_key(spec.run, "create.json"), _json(record), if_absent=True)


def read_create(store: Store, run: str) -> CreateRecord | None:
    """What was asked for; None for a run that the service did not start."""
    return _read(store, _key(run, "create.json"), CreateRecord)


def read_spec(store: Store, run: str) -> RunSpec:
    """What was asked for. Raises NotFound."""
    record = read_create(store, run)
    if record is None:
        raise NotFound(f"there is no run {run} in {store.url} that the service created")
    return record.spec


def end_run(store: Store, run: str, state: RunEnd, error: str = "") -> bool:
    """Writes how the run ended; False when its end was written before."""
    record = EndRecord(state=state, error=error, time=now())
    return store.put(_key(run, "end.json"), _json(record), if_absent=True)


def read_end(store: Store, run: str) -> EndRecord | None:
    """How the run ended; None while it is not over."""
    return _read(store, _key(run, "end.json"), EndRecord)


def resumed_times(store: Store, run: str) -> int:
    """How often the run was resumed after an end."""
    record = _read(store, _key(run, "resumed.json"), ResumedRecord)
    return record.times if record else 0


def reopen_run(store: Store, run: str) -> None:
    """Takes back the run's end. Killed in between, the next call does the rest."""
    store.put(active_run_key(run), b"")
    store.put(_key(run, "resumed.json"), _json(ResumedRecord(times=resumed_times(store, run) + 1)))
    store.delete(_key(run, "status.json"))
    store.delete(_key(run, "end.json"))
    store.put(active_run_key(run), b"")  # again: its launcher may just have released the run that was over


def write_status(store: Store, run: str, status: StatusRecord) -> None:
    store.put(_key(run, "status.json"), _json(status))


def read_status(store: Store, run: str) -> StatusRecord | None:
    """Where its processes are; None before its launcher has looked at it."""
    return _read(store, _key(run, "status.json"), StatusRecord)


def write_progress(store: Store, run: str, progress: Progress) -> None:
    store.put(run_key(run, "progress.json"), _json(progress))


def read_progress(store: Store, run: str) -> Progress | None:
    """The last step that was reported; None before the first."""
    return _read(store, run_key(run, "progress.json"), Progress)


def read_result(store: Store, run: str) -> dict[str, Any] | None:
    """What a finished run came to; None for one that is not finished."""
    try:
        return read_json(store, run_key(run, "result.json"))
    except NotFound:
        return None


def log_key(run: str, node: int) -> str:
    """The object that holds the end of what one of the run's machines printed."""
    return _key(run, f"logs/{node}.log")


def run_names(store: Store) -> list[str]:
    """Every run in the store, by name."""
    names = (name.removesuffix("/") for name in store.children(RUNS) if name.endswith("/"))
    return [name for name in names if DATASET_NAME.fullmatch(name)]


def active_runs(store: Store) -> list[CreateRecord]:
    """Runs that need their launcher, the oldest first; what is asked for of one stands in its record."""
    found = []
    for name in store.children(ACTIVE_RUNS):
        try:
            record = read_create(store, name)
        except TornObject as error:  # the others go on
            warn_once("stablerep.runs", f"{error}; run {name} is not started")
            continue
        if record is not None:
            found.append(record)
    return sorted(found, key=lambda record: record.create_time)


def release_run(store: Store, run: str) -> None:
    """Says that a run is over and none of its processes is left; one resumed meanwhile stays active."""
    store.delete(active_run_key(run))
    if read_end(store, run) is None and read_create(store, run) is not None:
        store.put(active_run_key(run), b"")


def is_active(store: Store, run: str) -> bool:
    """Whether a run needs its launcher (yet)."""
    return store.exists(active_run_key(run))


def _key(run: str, name: str) -> str:
    return run_key(run, f"job/{name}")


def _read(store: Store, key: str, kind: type[Record]) -> Record | None:
    try:
        return kind.model_validate_json(store.get(key))
    except NotFound:
        return None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        raise TornObject(f"{key} in {store.url} cannot be read: {where}: {first['msg']}") from error


def _json(record: BaseModel) -> bytes:
    return (record.model_dump_json(indent=2) + "\n").encode()
