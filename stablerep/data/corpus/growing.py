"""A dataset that is still being generated: its captions are all planned, its images come shard by shard."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from stablerep.data.corpus.arriving import ArrivingShards, ShardRows
from stablerep.data.corpus.groups import GroupDataset, Placed, open_dataset
from stablerep.data.corpus.opening import usable_manifest
from stablerep.data.corpus.planned import read_plan
from stablerep.data.corpus.rows import Texts
from stablerep.errors import NotFound, StableRepError
from stablerep.shards import Group, ShardIndex, read_dataset, read_index
from stablerep.shards.block import text_hash
from stablerep.shards.info import planned_shards
from stablerep.shards.layout import dead_key, events_prefix, index_prefix
from stablerep.storage import Store

POLL_SECONDS = 2.0
_ENDS = ("-cancel.json", "-fail.json", "-delete.json")


class WaitCancelled(StableRepError):
    """A wait for a shard that was given up."""


class GrowingDataset(GroupDataset):
    """The planned captions of a job's dataset, whether their images are there yet or not.

    `captions` and `image_counts` are those of the plan, so that everything which depends on them is the same
    however far the job is. `counts_there` waits for images; a shard that was given up, and a caption that was
    skipped, have none for good.

    Args:
        passed_over: whether this shard is known to have been passed over; called before each shard is used.
        pass_over: told of a shard that was given up, before anything depends on that.
        waiting: told what is waited for, and for how many seconds so far.
    """

    def __init__(
        self,
        url: str,
        *,
        passed_over: Callable[[int], bool] = lambda shard: False,
        pass_over: Callable[[int, str], None] = lambda shard, why: None,
        waiting: Callable[[str, float], None] = lambda what, seconds: None,
    ) -> None:
        self.url = url.rstrip("/")
        self._store, self.name = open_dataset(self.url)
        self._passed_over, self._pass_over, self._waiting = passed_over, pass_over, waiting
        self.cancelled = threading.Event()
        self._arriving = ArrivingShards(self._store, self.name)
        self._shards = np.arange(planned_shards(self._store, self.name))
        self._read_plan()
        images = int(read_dataset(self._store, self.name).recipe["images_per_caption"])
        self.image_counts = np.full(len(self.captions), images, dtype=np.int16)

    def _read_plan(self) -> None:
        plan = read_plan(self._store, self.name, len(self._shards), self._tell_plan)
        self.captions = Texts([part.texts for part in plan])
        self._ids = np.concatenate([part.ids.to_numpy() for part in plan])
        self._ends = np.cumsum([0, *(size for part in plan for size in part.sizes)])

    def _tell_plan(self, shards: int, seconds: float) -> None:
        share = f"{shards:,} of {len(self._shards):,} shards"
        self._waiting(f"the captions of {self.url} ({share})", seconds)

    def _shard_of(self, positions: np.ndarray) -> np.ndarray:
        return np.searchsorted(self._ends, positions, side="right") - 1

    def hashes(self) -> np.ndarray:
        return np.fromiter(map(text_hash, self.captions), np.uint64, len(self.captions))

    def __len__(self) -> int:
        return len(self.captions)

    def _placed(self, indices: Sequence[int]) -> list[Placed | None]:
        """Where groups lie, once they are there; None for one that never will be."""
        positions = np.array([range(len(self))[index] for index in indices], dtype=np.int64)
        asked = zip(self._shard_of(positions).tolist(), self._ids[positions].tolist(), strict=True)
        placed: list[Placed | None] = []
        for shard, id_ in asked:
            there = self._rows_there(shard)
            group = None if there is None else there.group(id_)
            placed.append(None if there is None or group is None else Placed(there.rows, shard, group))
        return placed

    def _without_images(self, index: int) -> Group:
        position = range(len(self))[index]
        return Group(int(self._ids[position]), self.captions[position], ())

    def where(self, index: int) -> str:
        shard = int(self._shard_of(np.array(index)))
        return f"caption {self._ids[index]} in shard {shard} of {self.url}"

    def counts_there(self, indices: np.ndarray) -> np.ndarray:
        """How many images these groups have, int64 like `indices`; waits for their shards.

        Raises WaitCancelled once `cancelled` is set, NotFound if the job ended without them.
        """
        asked = zip(self._shard_of(indices).tolist(), self._ids[indices].tolist(), strict=True)
        found = ((self._rows_there(shard), caption_id) for shard, caption_id in asked)
        return np.array([0 if there is None else there.images(id_) for there, id_ in found], dtype=np.int64)

    def is_whole(self) -> bool:
        """Whether every planned shard is there."""
        return is_whole(self._store, self.name)

    def _rows_there(self, shard: int) -> ShardRows | None:
        """A shard's groups, once it is there; None if it was given up."""
        if self._passed_over(shard):
            return None
        found = self._arriving.find(shard)
        if found is not None:
            return found
        index = self._wait_for(shard)
        return None if index is None else self._arriving.add(shard, index)

    def _wait_for(self, shard: int) -> ShardIndex | None:
        began = time.monotonic()
        while True:
            if self._passed_over(shard):
                return None
            found = read_index(self._store, self.name, shard)
            if found is not None:
                return found
            dead = self._why_dead(shard)
            if dead is not None:
                self._pass_over(shard, dead)
                return None
            if job_has_ended(self._store, self.name):
                raise NotFound(
                    f"shard {shard} of {self.url} is not there, and its job was cancelled or has failed; "
                    "resume the job, or train on what there is without follow"
                )
            self._waiting(f"shard {shard} of {self.url}", time.monotonic() - began)
            if self.cancelled.wait(POLL_SECONDS):
                raise WaitCancelled(f"no longer waits for shard {shard} of {self.url}")

    def _why_dead(self, shard: int) -> str | None:
        """The error of the shard's dead letter; None if there is none."""
        try:
            content = json.loads(self._store.get(dead_key(self.name, shard)))
        except NotFound:
            return None
        except ValueError:
            return "it was given up"
        return str(content.get("error", "it was given up"))


def is_whole(store: Store, dataset: str) -> bool:
    """Whether all shards that the dataset's job planned are there; False while it is being planned."""
    try:
        planned = planned_shards(store, dataset)
    except NotFound:
        return False
    if usable_manifest(store, dataset).shard_count >= planned:
        return True
    return sum(1 for _ in store.children(index_prefix(dataset))) >= planned


def job_has_ended(store: Store, dataset: str) -> bool:
    """Whether the job was cancelled, failed or is being deleted."""
    return any(entry.key.endswith(_ENDS) for entry in store.list(events_prefix(dataset)))
