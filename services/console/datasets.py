"""Datasets as pages of groups: from manifest and range reads, with nothing listed but what is still open."""

import threading
import time
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from stablerep.config.names import check_dataset
from stablerep.data.corpus.block_files import map_block
from stablerep.data.corpus.opening import outside_manifest, usable_manifest
from stablerep.data.corpus.rows import Rows
from stablerep.errors import NotFound, TornObject
from stablerep.shards import (
    DatasetInfo,
    Group,
    IndexedGroup,
    ShardIndex,
    SkippedCaption,
    find_group,
    read_dataset,
    read_groups,
    read_index,
)
from stablerep.shards.block import build_block
from stablerep.shards.layout import DATASETS, SHARDS_PER_BLOCK, manifest_key
from stablerep.shards.manifest import BlockEntry, Manifest
from stablerep.storage import Store

FRESH_SECONDS = 2.0
"""A dataset is looked at again after so long, while a job may add to it."""
READERS = 32
KEPT_DATASETS = 32
KEPT_BLOCKS = 64
KEPT_BYTES = 128 << 20
"""Of groups that were shown: their images are asked for one by one."""
KEPT_SECONDS = 60.0
"""A dataset may be deleted, and another made under its name."""
SEARCH_SECONDS = 2.0
Place = tuple[int, IndexedGroup]
"""A shard and where a group lies in it."""


@dataclass(frozen=True)
class Found:
    """Groups of a search; `searched` of `groups` are done, `following` is where to go on, if anywhere."""

    places: list[tuple[int, Place]]
    following: int | None
    searched: int
    groups: int


@dataclass(frozen=True)
class _Segment:
    """Groups in a row: a block of the manifest, which is mapped when it is needed, or what indexes say."""

    count: int
    entry: BlockEntry | None
    rows: Rows | None


class Datasets:
    """All datasets of a store. Any thread may call."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._opened: OrderedDict[str, Dataset] = OrderedDict()
        self._groups: OrderedDict[tuple[str, int], tuple[float, Group]] = OrderedDict()
        self._bytes = 0
        self._lock = threading.Lock()
        self.readers = ThreadPoolExecutor(READERS, "console-index")

    def names(self) -> list[str]:
        """Every dataset's name, in order."""
        return [name.rstrip("/") for name in self._store.children(DATASETS) if name.endswith("/")]

    def open(self, name: str) -> "Dataset":
        """The dataset as it is now. Raises InvalidInput, and NotFound where it has no finished shard."""
        check_dataset(name)
        with self._lock:
            dataset = self._opened.setdefault(name, Dataset(self._store, name, self.readers))
            self._opened.move_to_end(name)
            while len(self._opened) > KEPT_DATASETS:
                self._opened.popitem(last=False)
        dataset.refresh()
        return dataset

    def info(self, name: str) -> DatasetInfo | None:
        """What its `dataset.json` says; None for shards that no job made."""
        try:
            return read_dataset(self._store, check_dataset(name))
        except NotFound:
            return None

    def read(self, name: str, places: Sequence[Place]) -> list[Group]:
        """Groups by where they lie; those of one page by a few range reads."""
        try:
            groups = read_groups(self._store, name, places)
        except (NotFound, TornObject):  # a shard that was made again, of which the manifest is to hear yet
            groups = read_groups(self._store, name, [self._by_index(name, *place) for place in places])
        with self._lock:
            for group in groups:
                self._keep(name, group)
        return groups

    def group(self, name: str, caption_id: int) -> Group:
        """One group, from what was shown of late, else found by its caption. Raises NotFound."""
        with self._lock:
            when, kept = self._groups.get((name, caption_id), (0.0, None))
        if kept is not None and time.monotonic() - when < KEPT_SECONDS:
            return kept
        return self.read(name, [self.find(name, caption_id)])[0]

    def find(self, name: str, caption_id: int) -> Place:
        """Where the group of a caption lies. Raises NotFound, and InvalidInput for a skipped one."""
        return find_group(self._store, check_dataset(name), caption_id)

    def _by_index(self, name: str, shard: int, group: IndexedGroup) -> Place:
        index = read_index(self._store, name, shard)
        fresh = (one for one in (index.groups if index else ()) if one.caption_id == group.caption_id)
        return shard, next(fresh, group)

    def _keep(self, name: str, group: Group) -> None:
        _, old = self._groups.pop((name, group.caption_id), (0.0, None))
        self._groups[name, group.caption_id] = time.monotonic(), group
        self._bytes += _size(group) - (_size(old) if old else 0)
        while self._bytes > KEPT_BYTES and len(self._groups) > 1:
            _, (_, dropped) = self._groups.popitem(last=False)
            self._bytes -= _size(dropped)


class Dataset:
    """One dataset: how many groups it has, and where each lies."""

    def __init__(self, store: Store, name: str, readers: ThreadPoolExecutor) -> None:
        self.name = name
        self._store, self._readers = store, readers
        self._lock = threading.Lock()
        self._looked = float("-inf")
        self._etag: str | None = None
        self._manifest = Manifest()
        self._indexes: dict[int, ShardIndex] = {}
        self._segments: list[_Segment] = []
        self._ends = np.zeros(0, np.int64)
        self._blocks: OrderedDict[str, Rows] = OrderedDict()

    def refresh(self) -> None:
        """Looks again, if that is due."""
        with self._lock:
            if time.monotonic() - self._looked < FRESH_SECONDS:
                return
            found = self._store.stat(manifest_key(self.name))
            etag, before = found.etag if found else "", (self._etag, set(self._indexes))
            if etag != self._etag:
                self._manifest, self._etag = usable_manifest(self._store, self.name), etag
            covered = {entry.number: set(entry.shards) for entry in self._manifest.blocks}
            outside = [
                shard
                for shard in outside_manifest(self._store, self.name, self._manifest)
                if shard not in covered.get(shard // SHARDS_PER_BLOCK, ())
            ]
            self._indexes = {shard: self._indexes[shard] for shard in outside if shard in self._indexes}
            missing = [shard for shard in outside if shard not in self._indexes]
            for shard, index in zip(missing, self._readers.map(self._index, missing), strict=True):
                if index is not None:
                    self._indexes[shard] = index
            if (self._etag, set(self._indexes)) != before:
                self._arrange()
            self._looked = time.monotonic()

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    @property
    def images(self) -> int:
        """Of all its groups."""
        return sum(entry.images for entry in self._manifest.blocks) + sum(
            index.images for index in self._indexes.values()
        )

    @property
    def shards(self) -> int:
        """That are finished."""
        return self._manifest.shard_count + len(self._indexes)

    def places(self, first: int, count: int) -> list[Place]:
        """Where groups first..first+count-1 lie, as far as there are any."""
        found = []
        for position in range(first, min(first + count, len(self))):
            rows, row = self._locate(position)
            found.append((rows.shard(row), rows.group(row)))
        return found

    def search(self, text: str, start: int, count: int) -> Found:
        """Groups whose caption holds the text, in any case, from group `start` on; stops after a while."""
        began = time.monotonic()
        found: list[tuple[int, Place]] = []
        for number, segment in enumerate(self._segments):
            end = int(self._ends[number])
            first = end - segment.count
            if end <= start:
                continue
            if time.monotonic() - began > SEARCH_SECONDS:
                return Found(found, first, first, len(self))
            rows = self._rows(segment)
            for row in rows.matching(text).tolist():
                if first + row < start:
                    continue
                if len(found) == count:
                    return Found(found, first + row, first + row, len(self))
                found.append((first + row, (rows.shard(row), rows.group(row))))
        return Found(found, None, len(self), len(self))

    def skipped(self, limit: int) -> list[tuple[int, SkippedCaption]]:
        """Captions without images, with their shards: those of shards that the manifest lacks come first."""
        found = [(shard, one) for shard, index in sorted(self._indexes.items()) for one in index.skipped]
        for entry in self._manifest.blocks:
            if len(found) >= limit:
                break
            shards = self._rows(_Segment(entry.groups, entry, None)).with_skipped.tolist()
            for shard, index in zip(shards, self._readers.map(self._index, shards), strict=True):
                found += [(shard, one) for one in (index.skipped if index else ())]
        return found[:limit]

    def _locate(self, position: int) -> tuple[Rows, int]:
        number = int(np.searchsorted(self._ends, position, side="right"))
        segment = self._segments[number]
        return self._rows(segment), position - int(self._ends[number]) + segment.count

    def _rows(self, segment: _Segment) -> Rows:
        if segment.rows is not None:
            return segment.rows
        assert segment.entry is not None
        key = segment.entry.sha256
        with self._lock:
            rows = self._blocks.get(key)
        if rows is None:
            rows = Rows(_mapped(self._store, self.name, segment.entry), in_manifest=True)
        with self._lock:
            self._blocks[key] = rows
            self._blocks.move_to_end(key)
            while len(self._blocks) > KEPT_BLOCKS:
                self._blocks.popitem(last=False)
        return rows

    def _arrange(self) -> None:
        by_block: dict[int, list[tuple[int, ShardIndex]]] = {}
        for shard, index in sorted(self._indexes.items()):
            by_block.setdefault(shard // SHARDS_PER_BLOCK, []).append((shard, index))
        entries = {entry.number: entry for entry in self._manifest.blocks}
        segments = []
        for number in sorted({*by_block, *entries}):
            if number in entries:
                segments.append(_Segment(entries[number].groups, entries[number], None))
            if number in by_block:
                rows = Rows(build_block(by_block[number]), in_manifest=False)
                segments.append(_Segment(len(rows), None, rows))
        self._segments = segments
        self._ends = np.cumsum([segment.count for segment in segments], dtype=np.int64)

    def _index(self, shard: int) -> ShardIndex | None:
        """None for one that has gone or is torn: a reconciliation makes it anew."""
        try:
            return read_index(self._store, self.name, shard)
        except TornObject:
            return None


def _mapped(store: Store, name: str, entry: BlockEntry) -> pa.RecordBatch:
    try:
        return map_block(store, name, entry)
    except NotFound:
        raise TornObject(
            f"block {entry.number} of the manifest of {name} has gone; `stablerep reconcile {name}` writes it"
        ) from None


def _size(group: Group) -> int:
    return sum(map(len, group.encoded)) + 1000
