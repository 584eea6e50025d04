"""The queue hears again what the store says of jobs: a step that a process died before, or that Redis lost.

A server that crashed or was replaced by a lagging copy may lack its last second: a job that was paused runs
on, one that was cancelled is not over. The other way round, dead letters may not have reached the store.
"""

from stablerep.errors import NotFound
from stablerep.jobs.control import record_dead
from stablerep.jobs.records import read_events, read_planned, state_of
from stablerep.queue.client import Queue
from stablerep.queue.states import JobState
from stablerep.storage.interface import Store


def sync_all_from_store(store: Store, queue: Queue) -> None:
    """Follows the records of every job that is not over, and keeps the dead letters of all in the store.

    Raises:
        StoreError, Unavailable: try again later.
    """
    for dataset in queue.jobs():
        try:
            status = queue.status(dataset)
            if not status.state.final:
                sync_from_store(store, queue, dataset)
            if status.counts.dead:
                record_dead(store, queue, dataset)
        except NotFound:  # deleted meanwhile
            continue


def sync_from_store(store: Store, queue: Queue, dataset: str) -> None:
    """Tells the queue what it should have heard: that planning is over, that the job is paused or over."""
    planned = read_planned(store, dataset)
    if planned is not None and not queue.status(dataset).planned_all:
        queue.set_planned(dataset, planned.shards)
        queue.finish_planning(dataset)
    control = state_of(read_events(store, dataset))
    if control.ended is not None:
        queue.set_state(dataset, control.ended, control.error)
    elif control.paused and queue.state(dataset) in (JobState.PLANNING, JobState.RUNNING):
        queue.set_state(dataset, JobState.PAUSED)
        if not state_of(read_events(store, dataset)).paused:  # resumed between the two
            queue.set_state(dataset, JobState.RUNNING)
