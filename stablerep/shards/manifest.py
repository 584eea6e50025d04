"""The manifest of a dataset: its indexes once more, 1,000 shards an object, to open a large dataset at once.

The indexes are the truth. A block is stored under a name that its contents give it, so that it is never
changed; `manifest.json` lists those that count, and is replaced as a whole. A shard that has to be made again
leaves the manifest before it leaves the store. What the manifest does not hold is read from the indexes.
"""

import hashlib
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from stablerep.errors import NotFound, TornObject
from stablerep.shards.layout import (
    SHARDS_PER_BLOCK,
    block_key,
    index_block_prefix,
    manifest_key,
    shard_of,
)
from stablerep.shards.shards import read_index
from stablerep.shards.tar import ShardIndex
from stablerep.storage.interface import Store

_READERS = 16  # indexes read at once: on S3 each costs a round trip


class BlockEntry(BaseModel):
    """A block: shards number * 1,000 up to its `end` (not included), without those `missing`."""

    model_config = ConfigDict(frozen=True)

    number: int
    end: int
    missing: tuple[int, ...] = ()
    groups: int
    images: int
    size: int
    sha256: str

    @property
    def shards(self) -> list[int]:
        """Numbers of the shards that it holds, in order."""
        return sorted(set(range(self.number * SHARDS_PER_BLOCK, self.end)).difference(self.missing))


class Manifest(BaseModel):
    """What `manifest.json` says; blocks in order."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    blocks: tuple[BlockEntry, ...] = ()

    @property
    def shard_count(self) -> int:
        return sum(entry.end - entry.number * SHARDS_PER_BLOCK - len(entry.missing) for entry in self.blocks)

    def block(self, number: int) -> BlockEntry | None:
        return next((entry for entry in self.blocks if entry.number == number), None)


def read_manifest(store: Store, dataset: str) -> Manifest:
    """The manifest of a dataset; one without blocks where there is none. Raises TornObject."""
    key = manifest_key(dataset)
    try:
        return Manifest.model_validate_json(store.get(key))
    except NotFound:
        return Manifest()
    except ValidationError as error:
        raise TornObject(f"{key} in {store.url} is no manifest; delete it to have it made again") from error


def known_blocks(store: Store, dataset: str) -> set[int]:
    """Numbers of the blocks of a manifest; none where it cannot be read."""
    return {entry.number for entry in _read_or_none(store, dataset).blocks}


def block_count(planned: int) -> int:
    """How many blocks so many shards fill."""
    return -(-planned // SHARDS_PER_BLOCK)


def update_block(
    store: Store, dataset: str, number: int, planned: int, *, over: bool, verify: bool = False
) -> bool:
    """Brings one block to what the indexes say, and returns whether that changed the manifest.

    Two calls at one time may lose what one of them wrote: callers hold a lock.

    Args:
        planned: shards of the dataset, as far as known.
        over: the job is over: a block is written as it is. Otherwise only one all of whose 1,000 shards are
            there.
        verify: reads the indexes of a block that seems to be up to date, too.
    """
    manifest = _read_or_none(store, dataset)
    entry = manifest.block(number)
    first = number * SHARDS_PER_BLOCK
    end = min(planned, first + SHARDS_PER_BLOCK)
    if entry is not None and not verify and entry.end == end and not entry.missing:
        return False
    there = [shard_of(info.key) for info in store.list(index_block_prefix(dataset, number))]
    if not there and entry is not None:
        drop_from_manifest(store, dataset, [first])
        return True
    if not there or (not over and len(there) < SHARDS_PER_BLOCK):
        return False
    if entry is not None and not verify and entry.shards == there:
        return False
    made, content = _make(store, dataset, number, there)
    if made == entry and _is_whole(store, block_key(dataset, number, made.sha256), made):
        return False
    store.put(block_key(dataset, number, made.sha256), content)
    _put(store, dataset, manifest, number, made)
    if entry is not None and entry.sha256 != made.sha256:
        store.delete(block_key(dataset, number, entry.sha256))
    return True


def drop_from_manifest(store: Store, dataset: str, shards: Iterable[int]) -> None:
    """Takes the blocks of these shards out of the manifest; callers hold a lock."""
    manifest = _read_or_none(store, dataset)
    for number in sorted({shard // SHARDS_PER_BLOCK for shard in shards}):
        entry = manifest.block(number)
        if entry is not None:
            manifest = _put(store, dataset, manifest, number, None)
            store.delete(block_key(dataset, number, entry.sha256))


def _make(store: Store, dataset: str, number: int, shards: list[int]) -> tuple[BlockEntry, bytes]:
    from stablerep.shards.block import build_block, pack_block, shards_of

    with ThreadPoolExecutor(_READERS, "index") as readers:
        indexes = readers.map(lambda shard: _index(store, dataset, shard), shards)
        block = build_block((n, index) for n, index in zip(shards, indexes, strict=True) if index is not None)
    content, found = pack_block(block), shards_of(block)
    first, end = number * SHARDS_PER_BLOCK, shards[-1] + 1
    entry = BlockEntry(
        number=number,
        end=end,
        missing=tuple(sorted(set(range(first, end)).difference(found.numbers))),
        groups=block.num_rows,
        images=sum(found.images),
        size=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    return entry, content


def _is_whole(store: Store, key: str, entry: BlockEntry) -> bool:
    try:
        return hashlib.sha256(store.get(key)).hexdigest() == entry.sha256
    except NotFound:
        return False


def _index(store: Store, dataset: str, shard: int) -> ShardIndex | None:
    """None too where it is torn: a reconciliation makes it anew, and the block with it."""
    try:
        return read_index(store, dataset, shard)
    except TornObject:
        return None


def _put(store: Store, dataset: str, manifest: Manifest, number: int, entry: BlockEntry | None) -> Manifest:
    others = [other for other in manifest.blocks if other.number != number]
    blocks = sorted([*others, entry] if entry else others, key=lambda block: block.number)
    changed = Manifest(blocks=tuple(blocks))
    store.put(manifest_key(dataset), (changed.model_dump_json() + "\n").encode())
    return changed


def _read_or_none(store: Store, dataset: str) -> Manifest:
    """A manifest that cannot be read is made anew."""
    try:
        return read_manifest(store, dataset)
    except TornObject:
        return Manifest()
