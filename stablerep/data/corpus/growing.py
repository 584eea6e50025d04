"""A dataset that is still being generated: its captions are all planned, its images come shard by shard."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from stablerep.data.corpus.groups import GroupDataset, open_dataset
from stablerep.data.corpus.opening import usable_manifest
from stablerep.errors import NotFound, StableRepError
from stablerep.shards import Group, IndexedGroup, ShardIndex, read_dataset, read_groups, read_index
from stablerep.shards.block import text_hash
from stablerep.shards.captions_file import read_captions
from stablerep.shards.info import planned_shards
from stablerep.shards.layout import dead_key, events_prefix, index_prefix
from stablerep.storage import Store

POLL_SECONDS = 2.0
_READERS = 8
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
        self._lock = threading.Lock()
        self._there: dict[int, dict[int, IndexedGroup]] = {}
        self._shards = np.arange(planned_shards(self._store, self.name))
        with ThreadPoolExecutor(_READERS) as readers:
            planned = list(
                readers.map(lambda n: read_captions(self._store, self.name, n), self._shards.tolist())
            )
        self._ids = np.array([caption.id for shard in planned for caption in shard], dtype=np.int64)
        self._shard_of_group = np.repeat(np.array(self.shards, dtype=np.int64), list(map(len, planned)))
        self.captions = [caption.text for shard in planned for caption in shard]
        images = int(read_dataset(self._store, self.name).recipe["images_per_caption"])
        self.image_counts = np.full(len(self.captions), images, dtype=np.int64)

    def hashes(self) -> np.ndarray:
        return np.array([text_hash(caption) for caption in self.captions], dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.captions)

    def read(self, indices: Sequence[int]) -> list[Group]:
        """These groups, once they are there; without images those that never will be."""
        placed = [self._place(range(len(self))[index]) for index in indices]
        there = [(shard, group) for shard, group in placed if isinstance(group, IndexedGroup)]
        found = iter(read_groups(self._store, self.name, there))
        return [next(found) if isinstance(group, IndexedGroup) else group for _, group in placed]

    def _place(self, position: int) -> tuple[int, IndexedGroup | Group]:
        shard, caption_id = int(self._shard_of_group[position]), int(self._ids[position])
        group = self._groups_there(shard).get(caption_id)
        return shard, Group(caption_id, self.captions[position], ()) if group is None else group

    def where(self, index: int) -> str:
        return f"caption {self._ids[index]} in shard {self._shard_of_group[index]} of {self.url}"

    def counts_there(self, indices: np.ndarray) -> np.ndarray:
        """How many images these groups have, int64 like `indices`; waits for their shards.

        Raises WaitCancelled once `cancelled` is set, NotFound if the job ended without them.
        """
        asked = zip(self._shard_of_group[indices].tolist(), self._ids[indices].tolist(), strict=True)
        found = (self._groups_there(shard).get(caption_id) for shard, caption_id in asked)
        return np.array([0 if group is None else len(group.image_spans) for group in found], dtype=np.int64)

    def is_whole(self) -> bool:
        """Whether every planned shard is there."""
        return is_whole(self._store, self.name)

    def _groups_there(self, shard: int) -> dict[int, IndexedGroup]:
        """A shard's groups by caption id, once it is there; none if it was given up."""
        with self._lock:
            if shard in self._there:
                return self._there[shard]
        index = self._wait_for(shard)
        groups = {} if index is None else {group.caption_id: group for group in index.groups}
        with self._lock:
            return self._there.setdefault(shard, groups)

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
