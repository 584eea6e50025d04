"""ReconcileJobs: one job or all of them, each in a thread, a message a job as it is done."""

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial

from services.gateway.requests import dataset_of
from stablerep.captions.remote.access import Remote
from stablerep.errors import NotFound, StableRepError
from stablerep.jobs.recovery.repair import Depth, ReconcileResult, repair
from stablerep.jobs.recovery.stored import job_names
from stablerep.queue.client import Queue
from stablerep.storage.interface import Store
from stablerep.v1 import generation_pb2 as pb


async def reconcile_jobs(
    store: Store, queue: Queue, request: pb.ReconcileJobsRequest, remote: Remote
) -> AsyncIterator[pb.ReconcileJobsResponse]:
    """What was found of each job; a client that hangs up ends it between two shards.

    Raises:
        InvalidInput: a name that no job can have.
        NotFound: there is no such job.
    """
    stop = threading.Event()
    depth = Depth.BYTES if request.verify else Depth.CONTENT
    repair_one = partial(repair, store, queue, depth, remote=remote, stop=stop)
    results: Iterator[ReconcileResult | None]
    if request.name:
        results = map(repair_one, [dataset_of(request.name)])
    else:
        results = repair_each(store, queue, repair_one, stop)
    try:
        while (found := await asyncio.to_thread(next, results, None)) is not None:
            yield _message(found)
    finally:
        stop.set()


def repair_each(
    store: Store, queue: Queue, repair_one: Callable[[str], ReconcileResult | None], stop: threading.Event
) -> Iterator[ReconcileResult]:
    """Repairs every job of the store, by name; the error of one becomes a problem of that job."""
    for dataset in job_names(store):
        try:
            found = repair_one(dataset)
        except NotFound:  # a dataset that no job made, or a job that was deleted just now
            continue
        except StableRepError as error:
            if stop.is_set():
                raise
            status = queue.status(dataset)
            counts = status.counts
            problems = (str(error),)
            found = ReconcileResult(
                dataset, status.state, counts.planned, counts.done, counts.dead, problems=problems
            )
        if found is not None:
            yield found


def _message(found: ReconcileResult) -> pb.ReconcileJobsResponse:
    return pb.ReconcileJobsResponse(
        name=f"jobs/{found.dataset}",
        state=found.state.value,
        shards=found.shards,
        shards_done=found.done,
        shards_dead=found.dead,
        shards_missing=found.missing,
        shards_torn=found.torn,
        shards_indexed=found.indexed,
        problems=found.problems,
    )
