"""Shards into the store and off the queue, beside the GPU; a store or queue that is away is waited for."""

import logging
import time
from collections.abc import Callable
from queue import SimpleQueue
from typing import TypeVar

from services.generator.context import WorkerContext
from services.generator.leased_shards import LeasedShard, ShardStage
from services.generator.metrics import Server, count_retry, observe_stage
from services.generator.readiness import pause_after
from stablerep.errors import StableRepError, Unavailable
from stablerep.jobs.recovery.repair import repair
from stablerep.shards import ShardIndex, commit_shard

T = TypeVar("T")
logger = logging.getLogger("stablerep.generator")


class Uploader:
    """A thread's work. The shards that wait are leased: no more than the worker may lease."""

    def __init__(self, worker: WorkerContext) -> None:
        self.shards_done = 0
        self.images_done = 0
        self.seconds = 0.0
        """Of the last upload."""
        self._worker = worker
        self._waiting: SimpleQueue[LeasedShard | None] = SimpleQueue()

    def put(self, shard: LeasedShard) -> None:
        """A shard with its tar, or with the index of one that is in the store already."""
        shard.stage = ShardStage.UPLOADING
        self._waiting.put(shard)

    def end(self) -> None:
        """What waits is still uploaded; nothing more comes."""
        self._waiting.put(None)

    def run(self) -> None:
        """Until `end`, or an unexpected error."""
        while (shard := self._waiting.get()) is not None:
            if not shard.over:
                with self._worker.shards.working_on(shard):
                    self._finish(shard)

    def _finish(self, shard: LeasedShard) -> None:
        index = shard.index
        if index is None:
            started = time.monotonic()
            index = self._patiently("store", shard, lambda: self._commit(shard))
            self.seconds = time.monotonic() - started
            observe_stage("upload", self.seconds)
        first = self._patiently("queue", shard, lambda: self._report(shard, index))
        if first:
            self.shards_done += 1
            self.images_done += index.images
        self._worker.shards.completed(shard, first=first)

    def _commit(self, shard: LeasedShard) -> ShardIndex:
        shard.keeper.check()  # of a job that was deleted meanwhile nothing must be written
        whose, worker_ms = (shard.lease.dataset, shard.lease.shard), round(1000 * shard.generate_seconds)
        return commit_shard(self._worker.store, *whose, shard.tar, worker_ms)

    def _report(self, shard: LeasedShard, index: ShardIndex) -> bool:
        return self._worker.queue.complete(
            shard.lease,
            groups=len(index.groups),
            images=index.images,
            skipped=len(index.skipped),
            seconds=index.worker_ms / 1000,
        )

    def _patiently(self, server: Server, shard: LeasedShard, step: Callable[[], T]) -> T:
        """Takes the step as soon as the server is there; the lease is kept meanwhile.

        Raises HandBack when the worker has to end before.
        """
        failures = 0
        while True:
            try:
                result = step()
            except Unavailable as error:
                failures += 1
                logger.warning("%s", error)
                count_retry(server)
                self._worker.readiness.set_problem(server, error)
                self._worker.drain.check()
                self._worker.drain.wait(pause_after(failures))
                if server == "queue":
                    self._repair()
            else:
                self._worker.readiness.clear_problem(server)
                return result

    def _repair(self) -> None:
        """A worker with all the shards it may lease asks for no other, and would not notice otherwise."""
        try:
            repair(self._worker.store, self._worker.queue, stop=self._worker.drain.sign)
        except (StableRepError, OSError) as error:
            logger.warning("%s", error)
