"""What a user does to a run: create, cancel, resume, delete. The store is all that is changed here.

Launchers compare what runs with what the store says, so a change is carried out within seconds of being
written, and whoever writes it may die right after.
"""

import time

from stablerep.config.loading import dotted
from stablerep.errors import AlreadyExists, NotFound, WrongState
from stablerep.runs.records import (
    create_run,
    end_run,
    is_active,
    read_create,
    read_spec,
    read_status,
    release_run,
    reopen_run,
)
from stablerep.runs.spec import RunSpec
from stablerep.runs.view import RunState, RunView, run_view
from stablerep.shards.layout import run_key, run_prefix
from stablerep.storage.interface import Store

NOTICE_SECONDS = 150.0
"""How long a deletion waits for a run's processes to be gone: they may write a checkpoint first."""
_POLL_SECONDS = 0.2


def create(store: Store, spec: RunSpec) -> None:
    """Writes the run down; the same spec again changes nothing.

    Raises:
        AlreadyExists: a run of this name is there with another spec (`field` is what differs), or one that
            the service did not start.
    """
    if read_create(store, spec.run) is None and store.exists(run_key(spec.run, "config.json")):
        raise AlreadyExists(
            f"a run {spec.run} is in {store.url} that this service did not start; name another", field="run"
        )
    if create_run(store, spec):
        return
    there = read_spec(store, spec.run)
    for field in RunSpec.model_fields:
        if field != "request_id" and getattr(there, field) != getattr(spec, field):
            raise AlreadyExists(
                f"run {spec.run} is there with another {field}: {_differs(there, spec, field)}; name another "
                "run, or delete that one",
                field=field,
            )


def cancel(store: Store, run: str) -> None:
    """Ends a run; what it has learnt stays. One that is over stays as it is. Raises NotFound, WrongState."""
    view = run_view(store, run)
    if not view.state.final:
        _created(view)
        end_run(store, run, "CANCELLED")


def resume(store: Store, run: str) -> None:
    """Runs a cancelled or failed run again, from its last checkpoint; one that is not over stays as it is.

    Raises:
        NotFound: there is no such run.
        WrongState: it has succeeded.
    """
    view = run_view(store, run)
    _created(view)
    if view.state is RunState.SUCCEEDED:
        raise WrongState(f"run {run} has succeeded; there is nothing left to do", field="name")
    if view.state.final:
        reopen_run(store, run)


def delete(store: Store, run: str, *, force: bool = False) -> int:
    """Removes a run and all that it has learnt; returns how many objects went.

    Args:
        force: a run that is not over is cancelled first.
    Raises:
        NotFound: there is no such run.
        WrongState: it is not over, and `force` is not given; or its processes do not end.
    """
    try:
        view = run_view(store, run)
    except NotFound:
        if count := _remove(store, run):  # an interrupted deletion
            return count
        raise
    if not view.state.final:
        if not force:
            message = f"run {run} is {view.state}, not over; cancel it first, or use force"
            raise WrongState(message, field="name")
        cancel(store, run)
    deadline = time.monotonic() + NOTICE_SECONDS
    while not _is_idle(store, run):
        if time.monotonic() > deadline:
            raise WrongState(f"the processes of run {run} have not ended yet; try again", field="name")
        time.sleep(_POLL_SECONDS)
    return _remove(store, run)


def _remove(store: Store, run: str) -> int:
    """The records last: what is interrupted stays a run that is over, and can be deleted again."""
    job = run_key(run, "job/")
    count = store.delete_many(
        info.key for info in store.list(run_prefix(run)) if not info.key.startswith(job)
    )
    count += store.delete_many(
        info.key for info in store.list(job) if not info.key.endswith(("create.json", "end.json"))
    )
    count += store.delete_many(info.key for info in store.list(job) if info.key.endswith("create.json"))
    release_run(store, run)
    return count + store.delete_many(info.key for info in store.list(job))


def _is_idle(store: Store, run: str) -> bool:
    """Whether no process of a run that is over is left; one that waited in vain never had any."""
    if not is_active(store, run):
        return True
    status = read_status(store, run)
    launcher = read_spec(store, run).launcher
    return launcher == "local" and (status is None or not status.running)


def _created(view: RunView) -> None:
    if view.create is None:
        raise WrongState(
            f"run {view.run} was not started by this service; stop it where it was started (Ctrl-C)",
            field="name",
        )


def _differs(there: RunSpec, asked: RunSpec, field: str) -> str:
    """The first setting that differs within a field, as "is A, not B"."""
    before, after = getattr(there, field), getattr(asked, field)
    if field in ("train", "probe", "resources") and before is not None and after is not None:
        old, new = dotted(before.model_dump()), dotted(after.model_dump())
        name = next(name for name in {**old, **new} if old.get(name) != new.get(name))
        return f"{name} is {old.get(name)}, not {new.get(name)}"
    return f"it is {before}, not {after}"
