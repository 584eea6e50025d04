"""Keeps datasets' manifests up to date: a block once its 1,000 shards are there, the rest at a job's end."""

import asyncio
import threading

from stablerep.errors import NotFound, Unavailable
from stablerep.jobs.manifests import update_manifest
from stablerep.queue.client import Queue
from stablerep.shards.layout import SHARDS_PER_BLOCK
from stablerep.storage.interface import Store

_JOBS_A_ROUND = 50  # that are over, after a start of the gateway


class Manifests:
    """Looks at all jobs, in rounds. `stop` ends a round between two blocks."""

    def __init__(self, store: Store, queue: Queue, stop: threading.Event) -> None:
        self._store, self._queue, self._stop = store, queue, stop
        self._whole: dict[str, int] = {}
        self._finished: set[str] = set()

    async def round(self) -> None:
        await asyncio.to_thread(self._round)

    def _round(self) -> None:
        active = {job.dataset: job for job in self._queue.stats().jobs}
        for dataset, job in active.items():
            self._finished.discard(dataset)
            if job.done // SHARDS_PER_BLOCK > self._whole.get(dataset, 0):
                self._update(dataset, over=False)
                self._whole[dataset] = job.done // SHARDS_PER_BLOCK
        jobs = self._queue.jobs()
        self._finished.intersection_update(jobs)
        waiting = [dataset for dataset in jobs if dataset not in active and dataset not in self._finished]
        for dataset in waiting[:_JOBS_A_ROUND]:
            self._update(dataset, over=True)

    def _update(self, dataset: str, *, over: bool) -> None:
        try:
            status = self._queue.status(dataset)
            if over and not status.state.final:
                return
            update_manifest(
                self._store, self._queue, dataset, status.counts.planned, over=over, check=self._check
            )
        except NotFound:  # deleted meanwhile
            return
        if over:
            self._finished.add(dataset)

    def _check(self) -> None:
        if self._stop.is_set():
            raise Unavailable("the gateway stops; the next one goes on with the manifests")
