"""Keeps datasets' manifests up to date: a block once its 1,000 shards are there, the rest at a job's end."""

import asyncio
import threading

from stablerep.errors import NotFound, Unavailable
from stablerep.jobs.manifests import update_manifest
from stablerep.queue.client import Queue
from stablerep.shards.layout import SHARDS_PER_BLOCK
from stablerep.shards.manifest import known_blocks
from stablerep.storage.interface import Store

_AHEAD = 8  # blocks that may be whole before others, because of shards that took several attempts
_JOBS_A_ROUND = 50  # that are over, after a start of the gateway


class Manifests:
    """Looks at all jobs, in rounds. `stop` ends a round between two blocks."""

    def __init__(self, store: Store, queue: Queue, stop: threading.Event) -> None:
        self._store, self._queue, self._stop = store, queue, stop
        self._whole: dict[str, int] = {}
        self._finished: dict[str, str] = {}

    async def round(self) -> None:
        await asyncio.to_thread(self._round)

    def _round(self) -> None:
        active = {job.dataset: job for job in self._queue.stats().jobs}
        for dataset, job in active.items():
            filled = job.done // SHARDS_PER_BLOCK
            if filled and filled != self._whole.get(dataset):
                # Shards are leased in their order: whole blocks are among the first.
                known = known_blocks(self._store, dataset)
                self._update(dataset, blocks=[n for n in range(filled + _AHEAD) if n not in known])
                self._whole[dataset] = filled
        ends = self._queue.ends()
        self._finished = {dataset: end for dataset, end in self._finished.items() if ends.get(dataset) == end}
        waiting = [dataset for dataset in ends if dataset not in self._finished]
        for dataset in waiting[:_JOBS_A_ROUND]:
            if self._update(dataset):
                self._finished[dataset] = ends[dataset]

    def _update(self, dataset: str, blocks: list[int] | None = None) -> bool:
        """Writes whole blocks among these, or all of a job that is over; False if it is not, or gone."""
        over = blocks is None
        try:
            status = self._queue.status(dataset)
            if over and not status.state.final:
                return False
            planned = status.counts.planned
            update_manifest(
                self._store, self._queue, dataset, planned, over=over, blocks=blocks, check=self._check
            )
        except NotFound:  # deleted meanwhile
            return False
        return True

    def _check(self) -> None:
        if self._stop.is_set():
            raise Unavailable("the gateway stops; the next one goes on with the manifests")
