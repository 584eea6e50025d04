"""ReconcileJobs: one job or all of them, each in a thread, a message a job as it is done."""

import asyncio
import threading
from collections.abc import AsyncIterator, Iterator
from functools import partial

from services.gateway.requests import dataset_of
from stablerep.captions.remote.access import Remote
from stablerep.jobs.recovery.reconcile import ReconcileResult, reconcile_all, reconcile_job
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
    if request.name:
        step = partial(reconcile_job, verify=request.verify, remote=remote, stop=stop)
        results = _one(partial(step, store, queue, dataset_of(request.name)))
    else:
        results = reconcile_all(store, queue, verify=request.verify, remote=remote, stop=stop)
    try:
        while (found := await asyncio.to_thread(next, results, None)) is not None:
            yield _message(found)
    finally:
        stop.set()


def _one(step: partial[ReconcileResult]) -> Iterator[ReconcileResult]:
    yield step()


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
