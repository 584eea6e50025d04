"""Writes a job's plan once more, in few objects, for those who read all of it (`shards.plan_file`)."""

from collections.abc import Sequence

from stablerep.captions import Caption
from stablerep.shards.layout import plan_key, plan_prefix
from stablerep.shards.plan_file import CAPTIONS_PER_FILE, SHARDS_PER_FILE, pack_plan
from stablerep.storage.interface import Store


class PlanWriter:
    """Takes every shard of a job, in order. What an earlier process of the same plan has written stays."""

    def __init__(self, store: Store, dataset: str) -> None:
        self._store, self._dataset = store, dataset
        self._written = {info.key for info in store.list(plan_prefix(dataset))}
        self._first = self._captions = 0
        self._shards: list[Sequence[Caption]] = []

    def add(self, captions: Sequence[Caption]) -> None:
        """The next shard. Raises StoreError."""
        self._shards.append(captions)
        self._captions += len(captions)
        if len(self._shards) == SHARDS_PER_FILE or self._captions >= CAPTIONS_PER_FILE:
            self.finish()

    def finish(self) -> None:
        """Writes what is not written yet. Raises StoreError."""
        key = plan_key(self._dataset, self._first)
        if self._shards and key not in self._written:
            self._store.put(key, pack_plan(self._shards))
        self._first += len(self._shards)
        self._shards, self._captions = [], 0
