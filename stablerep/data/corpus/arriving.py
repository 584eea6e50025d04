"""Where the groups of shards that are there lie: as the manifest says, else as their indexes do."""

import threading
import time
from dataclasses import dataclass

import numpy as np

from stablerep.data.corpus.opening import map_or_warn, usable_manifest
from stablerep.data.corpus.rows import Rows
from stablerep.shards import IndexedGroup, ShardIndex
from stablerep.shards.block import build_block
from stablerep.shards.layout import SHARDS_PER_BLOCK
from stablerep.storage import Store

_LOOK_SECONDS = 60.0


@dataclass(frozen=True)
class ShardRows:
    """The rows first..end-1 of a block: one shard's groups."""

    rows: Rows
    first: int
    end: int

    def group(self, caption_id: int) -> IndexedGroup | None:
        """None for a caption that has no group here: it was skipped."""
        row = self._row(caption_id)
        return None if row is None else self.rows.group(row)

    def images(self, caption_id: int) -> int:
        """How many the caption's group has; 0 without a group."""
        row = self._row(caption_id)
        return 0 if row is None else self.rows.images(row)

    def _row(self, caption_id: int) -> int | None:
        found = np.flatnonzero(self.rows.ids[self.first : self.end] == caption_id)
        return self.first + int(found[0]) if len(found) else None


class ArrivingShards:
    """The shards that are known to be there. Threads may share it.

    An index that was read stays in memory until a block of the manifest, which is mapped, has its shard: so
    a dataset of any size that is followed from its beginning takes memory for some thousand shards alone.
    """

    def __init__(self, store: Store, dataset: str) -> None:
        self._store, self._dataset = store, dataset
        self._lock = threading.Lock()
        self._blocks: dict[int, tuple[str, Rows | None]] = {}  # by number: its checksum; None: it is damaged
        self._read: dict[int, Rows] = {}
        self._looked = float("-inf")

    def find(self, shard: int) -> ShardRows | None:
        """None for a shard of which nothing is known; the manifest is looked at once a minute."""
        with self._lock:
            found = self._known(shard)
            if found is None and time.monotonic() - self._looked > _LOOK_SECONDS:
                self._look()
                found = self._known(shard)
            return found

    def add(self, shard: int, index: ShardIndex) -> ShardRows:
        """A shard whose index was read."""
        rows = Rows(build_block([(shard, index)]), in_manifest=False)
        with self._lock:
            self._read.setdefault(shard, rows)
        return ShardRows(rows, 0, len(rows))

    def _known(self, shard: int) -> ShardRows | None:
        if (rows := self._read.get(shard)) is not None:
            return ShardRows(rows, 0, len(rows))
        _, rows = self._blocks.get(shard // SHARDS_PER_BLOCK, ("", None))
        place = None if rows is None else rows.place_of(shard)
        return None if rows is None or place is None else ShardRows(rows, *rows.rows_of(place))

    def _look(self) -> None:
        self._looked = time.monotonic()
        for entry in usable_manifest(self._store, self._dataset).blocks:
            if self._blocks.get(entry.number, ("", None))[0] == entry.sha256:
                continue
            mapped = map_or_warn(self._store, self._dataset, entry)
            rows = None if mapped is None else Rows(mapped, in_manifest=True)
            self._blocks[entry.number] = entry.sha256, rows
            for shard in entry.shards if rows is not None else ():
                self._read.pop(shard, None)
