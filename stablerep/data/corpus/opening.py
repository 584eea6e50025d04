"""Opens the groups of a dataset: from its manifest where there is one, the rest from the indexes."""

import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pyarrow as pa

from stablerep.data.corpus.block_files import map_block
from stablerep.data.corpus.rows import Piece, Pieces, Rows
from stablerep.errors import NotFound, TornObject
from stablerep.shards import ShardIndex, read_index
from stablerep.shards.block import build_block
from stablerep.shards.info import planned_shards
from stablerep.shards.layout import (
    SHARDS_PER_BLOCK,
    index_block_prefix,
    index_prefix,
    shard_of,
)
from stablerep.shards.manifest import BlockEntry, Manifest, block_count, read_manifest
from stablerep.storage import Store

logger = logging.getLogger("stablerep.data")

_READERS = 32  # objects read at once: on S3 each costs a round trip
_MAPPERS = 8  # blocks at once: each is checked, which takes the processor
_LISTED_BLOCKS = 8  # more blocks than this outside the manifest: their indexes are listed together


def open_pieces(store: Store, dataset: str, shards: Sequence[int] | None = None) -> tuple[Pieces, np.ndarray]:
    """The groups of these shards, or of all committed ones, and their numbers [shards] in order.

    A block of the manifest that is damaged or gone is passed over with a warning: its indexes are read.
    Raises NotFound for a shard without an index, TornObject for one that is damaged.
    """
    manifest = usable_manifest(store, dataset)
    numbers = committed(store, dataset, manifest) if shards is None else np.unique(shards)
    blocks = numbers // SHARDS_PER_BLOCK
    asked = np.unique(blocks).tolist()
    wanted_blocks = set(asked)
    entries = [entry for entry in manifest.blocks if entry.number in wanted_blocks]
    with ThreadPoolExecutor(_MAPPERS, "block") as mappers:
        mapped = mappers.map(lambda entry: map_or_warn(store, dataset, entry), entries)
        held = {
            entry.number: Rows(block, in_manifest=True)
            for entry, block in zip(entries, mapped, strict=True)
            if block is not None
        }
    with ThreadPoolExecutor(_READERS, "index") as readers:

        def read(shard: int) -> tuple[int, ShardIndex]:
            index = read_index(store, dataset, shard)
            if index is None:
                raise NotFound(
                    f"shard {shard} of {store.url}/datasets/{dataset} has no index; it was there before, "
                    "or is asked for"
                )
            return shard, index

        pieces: list[Piece] = []
        for block in asked:
            wanted, rows = numbers[blocks == block], held.get(block)
            if rows is not None and np.array_equal(rows.numbers, wanted):
                pieces.append(Piece(rows, 0, len(rows)))
                continue
            there = np.empty(0, np.int64) if rows is None else rows.numbers
            missing = np.setdiff1d(wanted, there)
            made = Rows(build_block(readers.map(read, missing.tolist())), in_manifest=False)
            pieces += _merged([one for one in (rows, made) if one is not None], wanted)
    return Pieces(pieces), numbers


def usable_manifest(store: Store, dataset: str) -> Manifest:
    """The manifest; one without blocks, and a warning, where it is damaged."""
    try:
        return read_manifest(store, dataset)
    except TornObject as error:
        logger.warning("%s; the indexes are read in its place", error)
        return Manifest()


def committed(store: Store, dataset: str, manifest: Manifest) -> np.ndarray:
    """The numbers of the committed shards, int64, in order; what the manifest holds is not listed."""
    covered = [np.array(entry.shards, dtype=np.int64) for entry in manifest.blocks]
    return np.unique(
        np.concatenate([*covered, np.array(outside_manifest(store, dataset, manifest), dtype=np.int64)])
    )


def outside_manifest(store: Store, dataset: str, manifest: Manifest) -> list[int]:
    """Committed shards that the manifest may not hold, in order; whole blocks of it are not listed."""
    if not manifest.blocks:
        return _listed(store, index_prefix(dataset))
    try:
        planned = planned_shards(store, dataset)
    except NotFound:
        return _listed(store, index_prefix(dataset))
    whole = {entry.number for entry in manifest.blocks if _is_whole(entry, planned)}
    open_blocks = [block for block in range(block_count(planned)) if block not in whole]
    if len(open_blocks) > _LISTED_BLOCKS:
        return _listed(store, index_prefix(dataset))
    return [shard for block in open_blocks for shard in _listed(store, index_block_prefix(dataset, block))]


def _is_whole(entry: BlockEntry, planned: int) -> bool:
    return not entry.missing and entry.end == min(planned, (entry.number + 1) * SHARDS_PER_BLOCK)


def _listed(store: Store, prefix: str) -> list[int]:
    return [shard_of(info.key) for info in store.list(prefix)]


def map_or_warn(store: Store, dataset: str, entry: BlockEntry) -> pa.RecordBatch | None:
    """A block of the manifest; None, and a warning, where it is damaged or gone."""
    try:
        return map_block(store, dataset, entry)
    except (TornObject, NotFound) as error:
        logger.warning(
            "block %d of the manifest of %s cannot be used (%s); the indexes of its shards are read. "
            "`stablerep reconcile %s` makes it anew",
            entry.number,
            dataset,
            error,
            dataset,
        )
        return None


def _merged(blocks: Sequence[Rows], wanted: np.ndarray) -> list[Piece]:
    """The rows of the wanted shards, in order, of blocks that hold them between them."""
    places = {
        int(number): (rows, place)
        for rows in reversed(blocks)
        for place, number in enumerate(rows.numbers.tolist())
    }
    pieces: list[Piece] = []
    for shard in wanted.tolist():
        rows, place = places[shard]
        first, end = rows.rows_of(place)
        if pieces and pieces[-1].rows is rows and pieces[-1].end == first:
            pieces[-1] = Piece(rows, pieces[-1].first, end)
        else:
            pieces.append(Piece(rows, first, end))
    return pieces
