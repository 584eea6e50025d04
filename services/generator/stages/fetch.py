"""Leases shards and reads what they are made of, one ahead of the GPU, which never waits for the network."""

import logging
import time
from collections.abc import Sequence
from queue import SimpleQueue

from services.generator.context import WorkerContext
from services.generator.leased_shards import LeasedShard, ShardStage, Task
from services.generator.metrics import count_retry
from services.generator.stages.upload import Uploader
from stablerep.captions import Caption
from stablerep.errors import StableRepError, TornObject, Unavailable
from stablerep.jobs.recovery.repair import repair
from stablerep.queue.client import Lease
from stablerep.shards import (
    ShardIndex,
    read_captions,
    read_dataset,
    read_index,
    rebuild_index,
    recipe_of,
)
from stablerep.shards.layout import index_key, shard_key

logger = logging.getLogger("stablerep.generator")
LEAD_SECONDS = 2.0
"""The next shard is leased so long before the GPU is done with the last, or twice the time that it takes to
fetch one: a shard that waits longer in one worker's hand is one that an idle worker could have made."""
POLL_SECONDS = 0.02


class Fetcher:
    """A thread's work: shards into `ready`, at most `in_flight` leased at a time and one of them waiting."""

    def __init__(self, worker: WorkerContext, uploader: Uploader) -> None:
        self.ready: SimpleQueue[LeasedShard | None] = SimpleQueue()  # None: no more come
        self._worker = worker
        self._uploader = uploader
        self._fetch_seconds = 0.0

    def run(self) -> None:
        """Until the drain is ordered."""
        try:
            while not self._worker.drain.ordered:
                self._worker.drain.wait(self._worker.readiness.pause)
                if not self._has_room():
                    self._worker.drain.wait(POLL_SECONDS)
                elif not self._worker.drain.ordered:
                    self._poll()
        finally:
            self.ready.put(None)

    def _has_room(self) -> bool:
        shards = self._worker.shards.now()
        if len(shards) >= self._worker.settings.in_flight:
            return False
        lead = max(LEAD_SECONDS, 2 * self._fetch_seconds)
        return all(shard.stage >= ShardStage.GENERATING and _seconds_left(shard) <= lead for shard in shards)

    def _poll(self) -> None:
        started = time.monotonic()
        try:
            lease = self._worker.queue.lease(
                self._worker.name,
                self._worker.settings.lease_seconds,
                on_dead_lettered=self._worker.shards.record_dead,
            )
            if lease is None and self._worker.queue.epoch() is None:
                repair(self._worker.store, self._worker.queue, stop=self._worker.drain.sign)
        except (StableRepError, OSError) as error:
            self._unavailable(error)
            return
        self._worker.readiness.clear_problem("queue")
        if lease is None:
            self._worker.readiness.worked()
            self._worker.drain.wait(self._worker.settings.poll_seconds)
            return
        self._fetch(lease)
        self._fetch_seconds = time.monotonic() - started

    def _unavailable(self, error: Exception) -> None:
        logger.warning("%s", error)
        count_retry("queue")
        self._worker.readiness.set_problem("queue", error)
        self._worker.readiness.failed()

    def _fetch(self, lease: Lease) -> None:
        shard = self._worker.shards.take(lease)
        with self._worker.shards.working_on(shard):
            try:
                shard.index = self._finished(lease)
                if shard.index is None:
                    shard.task = self._read_task(lease)
            except Unavailable as error:
                count_retry("store")
                self._worker.readiness.set_problem("store", error)
                raise
            self._worker.readiness.clear_problem("store")
            if shard.index is None:
                shard.stage = ShardStage.WAITING
                self.ready.put(shard)
            else:
                self._uploader.put(shard)

    def _finished(self, lease: Lease) -> ShardIndex | None:
        """The index of a shard that a worker before has made, wholly or up to its index."""
        index = read_index(self._worker.store, lease.dataset, lease.shard)
        if index is None and self._worker.store.exists(shard_key(lease.dataset, lease.shard)):
            index = rebuild_index(self._worker.store, lease.dataset, lease.shard)
        if index is not None:
            check_captions(index, read_captions(self._worker.store, lease.dataset, lease.shard), lease)
        return index

    def _read_task(self, lease: Lease) -> Task:
        info = read_dataset(self._worker.store, lease.dataset)
        return Task(
            recipe_of(info), info.job_seed, read_captions(self._worker.store, lease.dataset, lease.shard)
        )


def check_captions(index: ShardIndex, captions: Sequence[Caption], lease: Lease) -> None:
    """Raises `TornObject` for a shard of other captions: one of a deleted job, written after its deletion."""
    texts = {caption.id: caption.text for caption in captions}
    held = {group.caption_id: group.caption for group in index.groups}
    skipped = {each.caption_id for each in index.skipped}
    if held.keys() | skipped != texts.keys() or any(texts[id_] != text for id_, text in held.items()):
        names = f"{shard_key(lease.dataset, lease.shard)} and {index_key(lease.dataset, lease.shard)}"
        raise TornObject(
            f"{names} hold other captions than this job's; they were left by an earlier job of its name: "
            "remove both, then retry the shard"
        )


def _seconds_left(shard: LeasedShard) -> float:
    """Until the GPU is done with it."""
    if shard.stage > ShardStage.GENERATING:
        return 0.0
    return shard.pace.seconds_left() if shard.pace else float("inf")
