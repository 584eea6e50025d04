"""What a user does to a job once it is there; the store is written before the queue, so that it lasts."""

from stablerep.jobs.job import JobState
from stablerep.jobs.queue import Queue
from stablerep.jobs.records import Event, write_dead, write_event
from stablerep.storage.store import Store


def cancel_job(store: Store, queue: Queue, dataset: str) -> JobState:
    """Ends a job; what is made stays. One in a final state is left as it is. Raises `NotFound`."""
    state = queue.state(dataset)
    if state.final:
        return state
    write_event(store, dataset, Event(kind="cancel"))
    return queue.set_state(dataset, JobState.CANCELLED)


def record_dead(store: Store, queue: Queue, dataset: str) -> None:
    """Copies the queue's dead letters of a job into the store, where they outlive Redis."""
    for shard, error in queue.dead(dataset).items():
        write_dead(store, dataset, shard, error)
