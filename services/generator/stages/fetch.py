"""Leases shards and reads what they are made of, one ahead of the GPU, which never waits for the network."""

import logging
import time
from collections.abc import Sequence
from queue import SimpleQueue

from pydantic import ValidationError

from services.generator.drain import Drain
from services.generator.leased_shards import LeasedShard, LeasedShards, ShardStage, Task
from services.generator.metrics import count_retry
from services.generator.readiness import Readiness
from services.generator.stages.upload import Uploader
from stablerep.captions import Caption
from stablerep.config.recipe import Recipe
from stablerep.config.settings import GeneratorSettings
from stablerep.errors import StableRepError, TornObject, Unavailable
from stablerep.jobs.recovery.repair import repair
from stablerep.queue.client import Lease, Queue
from stablerep.shards import ShardIndex, read_captions, read_dataset, read_index, rebuild_index
from stablerep.shards.layout import index_key, shard_key
from stablerep.storage import Store

logger = logging.getLogger("stablerep.generator")
LEAD_SECONDS = 2.0
"""The next shard is leased so long before the GPU is done with the last, or twice the time that it takes to
fetch one: a shard that waits longer in one worker's hand is one that an idle worker could have made."""
POLL_SECONDS = 0.02


class Fetcher:
    """A thread's work: shards into `ready`, at most `in_flight` leased at a time and one of them waiting."""

    def __init__(
        self,
        worker: str,
        store: Store,
        queue: Queue,
        settings: GeneratorSettings,
        hand: LeasedShards,
        uploader: Uploader,
        drain: Drain,
        readiness: Readiness,
    ) -> None:
        self.ready: SimpleQueue[LeasedShard | None] = SimpleQueue()  # None: no more come
        self._worker = worker
        self._store = store
        self._queue = queue
        self._settings = settings
        self._hand = hand
        self._uploader = uploader
        self._drain = drain
        self._readiness = readiness
        self._fetch_seconds = 0.0

    def run(self) -> None:
        """Until the drain is ordered."""
        try:
            while not self._drain.ordered:
                self._drain.wait(self._readiness.pause)
                if not self._has_room():
                    self._drain.wait(POLL_SECONDS)
                elif not self._drain.ordered:
                    self._poll()
        finally:
            self.ready.put(None)

    def _has_room(self) -> bool:
        shards = self._hand.shards()
        if len(shards) >= self._settings.in_flight:
            return False
        lead = max(LEAD_SECONDS, 2 * self._fetch_seconds)
        return all(shard.stage >= ShardStage.GENERATING and _seconds_left(shard) <= lead for shard in shards)

    def _poll(self) -> None:
        started = time.monotonic()
        try:
            lease = self._queue.lease(
                self._worker, self._settings.lease_seconds, on_dead_lettered=self._hand.record_dead
            )
            if lease is None and self._queue.epoch() is None:
                repair(self._store, self._queue, stop=self._drain.sign)
        except (StableRepError, OSError) as error:
            self._unavailable(error)
            return
        self._readiness.clear_problem("queue")
        if lease is None:
            self._readiness.worked()
            self._drain.wait(self._settings.poll_seconds)
            return
        self._fetch(lease)
        self._fetch_seconds = time.monotonic() - started

    def _unavailable(self, error: Exception) -> None:
        logger.warning("%s", error)
        count_retry("queue")
        self._readiness.set_problem("queue", error)
        self._readiness.failed()

    def _fetch(self, lease: Lease) -> None:
        shard = self._hand.take(lease)
        with self._hand.working_on(shard):
            try:
                shard.index = self._finished(lease)
                if shard.index is None:
                    shard.task = self._read_task(lease)
            except Unavailable as error:
                count_retry("store")
                self._readiness.set_problem("store", error)
                raise
            self._readiness.clear_problem("store")
            if shard.index is None:
                shard.stage = ShardStage.WAITING
                self.ready.put(shard)
            else:
                self._uploader.put(shard)

    def _finished(self, lease: Lease) -> ShardIndex | None:
        """The index of a shard that a worker before has made, wholly or up to its index."""
        index = read_index(self._store, lease.dataset, lease.shard)
        if index is None and self._store.exists(shard_key(lease.dataset, lease.shard)):
            index = rebuild_index(self._store, lease.dataset, lease.shard)
        if index is not None:
            check_captions(index, read_captions(self._store, lease.dataset, lease.shard), lease)
        return index

    def _read_task(self, lease: Lease) -> Task:
        info = read_dataset(self._store, lease.dataset)
        try:
            recipe = Recipe.model_validate(info.recipe)
        except ValidationError as error:
            problem = error.errors(include_url=False)[0]
            raise TornObject(
                f"the recipe of {lease.dataset} cannot be followed: {problem['loc']}: {problem['msg']}"
            ) from error
        if recipe.digest != info.recipe_digest:
            raise TornObject(f"the recipe in {lease.dataset}'s dataset.json is not the one its digest names")
        return Task(recipe, info.job_seed, read_captions(self._store, lease.dataset, lease.shard))


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
