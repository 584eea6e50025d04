"""What a user does to a job once it is there; the store is written before the queue, so that it lasts."""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from stablerep.errors import InvalidInput, NotFound, WrongState
from stablerep.jobs.manifests import manifest_locked
from stablerep.jobs.records import (
    CreateRecord,
    Event,
    mark_deleting,
    read_create,
    read_events,
    remove_dead,
    state_of,
    write_dead,
    write_event,
)
from stablerep.queue.client import Queue
from stablerep.queue.leases import ShardState
from stablerep.queue.lock import hold_within
from stablerep.queue.states import JobState
from stablerep.shards.layout import (
    create_key,
    dataset_prefix,
    dead_prefix,
    events_prefix,
    job_prefix,
    shard_of,
)
from stablerep.storage.interface import Store

NOTICE_SECONDS = 10.0
"""How long a deletion waits for workers to let go of the job's shards; they notice within 2 s."""
PLANNER_SECONDS = 20.0
"""And for the job's planner to stop, at the end of a shard."""
_LOOK_SECONDS = 0.1


def cancel_job(store: Store, queue: Queue, dataset: str) -> JobState:
    """Ends a job; what is made stays. One in a final state is left as it is. Raises `NotFound`."""
    state = queue.state(dataset)
    if state.final:
        return state
    event = write_event(store, dataset, Event(kind="cancel"))
    state = queue.set_state(dataset, JobState.CANCELLED)
    if state is not JobState.CANCELLED:  # it came to its own end just before
        store.delete(event)
    return state


def pause_job(store: Store, queue: Queue, dataset: str) -> JobState:
    """Pauses a job: no more of its shards are leased; leased ones are finished.

    Raises:
        NotFound: there is no such job.
        WrongState: it is over.
    """
    state = queue.state(dataset)
    if state.final:
        raise WrongState(f"job {dataset} is {state}; only one that is not over can be paused", field="name")
    if state is JobState.PAUSED:
        return state
    write_event(store, dataset, Event(kind="pause"))
    return queue.set_state(dataset, JobState.PAUSED)


def resume_job(store: Store, queue: Queue, dataset: str) -> JobState:
    """Resumes a paused job; any other stays as it is. Raises `NotFound`."""
    state = queue.state(dataset)
    if state.final:
        return state
    if state_of(read_events(store, dataset)).paused:
        write_event(store, dataset, Event(kind="resume"))
    return queue.set_state(dataset, JobState.RUNNING) if state is JobState.PAUSED else state


def retry_job(store: Store, queue: Queue, dataset: str, shards: Sequence[int] = ()) -> JobState:
    """Tries dead shards again, those named or all; a job that FAILED by them is RUNNING again.

    A named shard that is not dead (any more) is passed over, so that the call may be repeated.

    Raises:
        NotFound: there is no such job.
        WrongState: it was cancelled, or failed by its source: it never runs again.
        InvalidInput: it has no shard of such a number.
    """
    status = queue.status(dataset)
    past = state_of(read_events(store, dataset))
    if status.state is JobState.CANCELLED:
        raise WrongState(f"job {dataset} is CANCELLED for good; create it under another name", field="name")
    if past.ended is JobState.FAILED or (status.state is JobState.FAILED and status.error):
        why = past.error or status.error
        raise WrongState(
            f"job {dataset} failed by its source ({why}), which no retry repairs; create another",
            field="name",
        )
    wrong = [shard for shard in shards if not 0 <= shard < status.counts.planned]
    if wrong:
        raise InvalidInput(f"{wrong[0]} is not in 0..{status.counts.planned - 1}", field="shards")
    if not status.counts.dead:
        return status.state
    write_event(store, dataset, Event(kind="retry", shards=tuple(shards)))
    if status.state is JobState.FAILED and past.paused:  # paused before its last shard ended it
        write_event(store, dataset, Event(kind="resume"))
    remove_dead(store, dataset, shards)
    state = queue.retry(dataset, shards)
    remove_dead(store, dataset, shards)  # a worker may have recorded one again in between
    return state


def delete_job(store: Store, queue: Queue, dataset: str, *, delete_data: bool, force: bool = False) -> int:
    """Removes a job, with or without its dataset, and returns how many objects went.

    Killed anywhere, it is carried on by the next call, by `finish_deletion` or by a reconciliation.

    Args:
        delete_data: False leaves captions, shards, index and dataset.json, readable with no service running.
        force: a job that is not over is cancelled first.
    Raises:
        NotFound: there is no such job.
        WrongState: it is not over, and `force` is not given.
        Unavailable: its planner does not stop; try again.
    """
    try:
        deleted = _is_deleted(store, dataset)
    except NotFound:
        if queue.remove(dataset):  # its objects were removed by hand
            return 0
        raise
    if not deleted:
        _end(store, queue, dataset, force=force)
    with _planning_stopped(queue, dataset, PLANNER_SECONDS):
        record = read_create(store, dataset)  # by now another process may have finished it
        begun = _deletion(store, dataset)
        if begun is not None:
            delete_data = delete_data or begun.delete_data
        if not record.deleting and (begun is None or begun.delete_data != delete_data):
            write_event(store, dataset, Event(kind="delete", delete_data=delete_data))
        return _carry_out(store, queue, record, delete_data)


def finish_deletion(store: Store, queue: Queue, dataset: str, *, patience: float = PLANNER_SECONDS) -> bool:
    """Carries on a deletion that was begun; False, and nothing is changed, when none was.

    Raises `Unavailable` when another process was at it, or planned the job, for all of `patience` (seconds).
    """
    try:
        if not _is_deleted(store, dataset):
            return False
        with _planning_stopped(queue, dataset, patience):
            record, begun = read_create(store, dataset), _deletion(store, dataset)
            _carry_out(store, queue, record, begun is not None and begun.delete_data)
    except NotFound:  # there is no such job, or no more
        return False
    return True


def _is_deleted(store: Store, dataset: str) -> bool:
    """Whether a deletion of the job was begun. Raises `NotFound`."""
    return read_create(store, dataset).deleting or _deletion(store, dataset) is not None


def _deletion(store: Store, dataset: str) -> Event | None:
    """The event that began it; gone again near its end, when `create.json` itself says so."""
    return state_of(read_events(store, dataset)).deletion


def record_dead(store: Store, queue: Queue, dataset: str, shard: int | None = None) -> None:
    """Copies a shard's dead letter into the store, where it outlives Redis; without `shard`, all new ones."""
    if shard is not None:
        for found in queue.shards(dataset, shard, 1):
            if (found.number, found.state) == (shard, ShardState.DEAD):
                write_dead(store, dataset, shard, found.error)
        return
    recorded = {shard_of(info.key) for info in store.list(dead_prefix(dataset))}
    for number, error in queue.dead(dataset).items():
        if number not in recorded:
            write_dead(store, dataset, number, error)


def _end(store: Store, queue: Queue, dataset: str, *, force: bool) -> None:
    """Ends a job and waits until no worker holds a lease on it, lest a shard be written after all."""
    state = queue.state(dataset)
    if not state.final and not force:
        raise WrongState(f"job {dataset} is {state}, not over; cancel it first, or use force", field="name")
    if not state.final:
        cancel_job(store, queue, dataset)
    deadline = time.monotonic() + NOTICE_SECONDS
    while queue.counts(dataset).leased and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)


def _carry_out(store: Store, queue: Queue, record: CreateRecord, delete_data: bool) -> int:
    """Queue, data, the job's records; then its events, once `create.json` itself says that it is to go."""
    dataset = record.spec.dataset
    job, create, events = job_prefix(dataset), create_key(dataset), events_prefix(dataset)

    def keys(prefix: str, *, without: tuple[str, ...] = ()) -> Iterator[str]:
        return (info.key for info in store.list(prefix) if not info.key.startswith(without))

    queue.remove(dataset)
    with manifest_locked(queue, dataset):
        pass  # whoever was at the manifest is done, and finds that there is no job the next time
    count = store.delete_many(keys(dataset_prefix(dataset), without=(job,))) if delete_data else 0
    count += store.delete_many(keys(job, without=(create, events)))
    mark_deleting(store, record)
    count += store.delete_many(keys(events))
    if delete_data:  # what a worker wrote meanwhile that had not heard of the end
        count += store.delete_many(keys(dataset_prefix(dataset), without=(job,)))
    store.delete_many([create])  # and the folders that stood for its prefixes
    return count + 1


@contextmanager
def _planning_stopped(queue: Queue, dataset: str, patience: float) -> Iterator[None]:
    """Keeps planners and other deletions off the job during the block: what they write would stay behind."""
    problem = f"another process is planning or deleting job {dataset}; try again"
    with hold_within(queue, f"sr:planning:{dataset}", patience, problem):
        yield
