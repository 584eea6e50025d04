"""A block of a manifest: what the indexes of up to 1,000 shards say of their groups, as one Arrow file.

Its columns can be mapped into memory as they are, so that a group costs no more than its row:
`caption_id`, `caption`, `text_hash` (of the caption), `start` (of its first image in the tar, in bytes) and
`lengths` (of its images and its JSON, in bytes). Members lie one after the other in a tar, each padded to
whole blocks behind a header, so that their offsets follow from start and lengths.
"""

import hashlib
from collections.abc import Iterable
from itertools import pairwise
from tarfile import BLOCKSIZE
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict, ValidationError

from stablerep.errors import TornObject
from stablerep.shards.tar import IndexedGroup, ShardIndex

if TYPE_CHECKING:
    import pyarrow as pa

METADATA = b"stablerep"
"""Key of the schema's metadata under which the shards of a block stand, as JSON."""


class BlockShards(BaseModel):
    """The shards of a block, in order: how many rows are of their groups, and which tars they describe."""

    model_config = ConfigDict(frozen=True)

    numbers: list[int] = []
    groups: list[int] = []
    images: list[int] = []
    skipped: list[int] = []
    sizes: list[int] = []
    sha256: list[str] = []


def _columns() -> "dict[str, pa.DataType]":
    import pyarrow as pa  # not with this file: the command line, which reads no block, starts without it

    return {
        "caption_id": pa.int64(),
        "caption": pa.large_string(),
        "text_hash": pa.uint64(),
        "start": pa.int64(),
        "lengths": pa.list_(pa.uint32()),
    }


def build_block(indexes: Iterable[tuple[int, ShardIndex]]) -> "pa.RecordBatch":
    """The block of these shards, by number and in order. Raises TornObject for an index of no tar."""
    import pyarrow as pa

    shards = BlockShards()
    parts: list[pa.RecordBatch] = []
    for number, index in indexes:
        facts = (number, len(index.groups), index.images, len(index.skipped), index.size, index.sha256)
        for name, fact in zip(BlockShards.model_fields, facts, strict=True):
            getattr(shards, name).append(fact)
        if not all(map(_is_in_a_row, index.groups)):
            raise TornObject(f"the index of shard {number} describes no tar; delete it to have it made again")
        parts.append(_rows(index))
    columns = _columns()
    schema = pa.schema(list(columns.items()), {METADATA: shards.model_dump_json().encode()})
    # One batch: each of its columns is then one piece of memory.
    arrays = [
        pa.concat_arrays([part.column(name) for part in parts]) if parts else pa.array([], kind)
        for name, kind in columns.items()
    ]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def pack_block(block: "pa.RecordBatch") -> bytes:
    """The file of a block; equal blocks give equal bytes."""
    import pyarrow as pa

    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, block.schema) as writer:
        writer.write_batch(block)
    return sink.getvalue().to_pybytes()


def open_block(source: "pa.Buffer | pa.MemoryMappedFile") -> "pa.RecordBatch":
    """A block whose columns are memory of the source, not copies. Raises TornObject for anything else."""
    import pyarrow as pa

    try:
        reader = pa.ipc.open_file(source)
        if reader.num_record_batches != 1:
            raise TornObject(f"a block of {reader.num_record_batches} batches")
        block = reader.get_batch(0)
    except pa.ArrowException as error:
        raise TornObject(f"no block of a manifest: {error}") from error
    if {field.name: field.type for field in block.schema} != _columns():
        raise TornObject(f"a block with other columns: {block.schema.names}")
    return block


def shards_of(block: "pa.RecordBatch") -> BlockShards:
    """The shards of a block. Raises TornObject."""
    try:
        found = BlockShards.model_validate_json((block.schema.metadata or {})[METADATA])
    except (KeyError, ValidationError) as error:
        raise TornObject(f"a block without its shards: {error}") from error
    lengths = {len(getattr(found, name)) for name in BlockShards.model_fields}
    if len(lengths) != 1 or sum(found.groups) != block.num_rows:
        raise TornObject("a block whose rows are not those of its shards")
    return found


def text_hash(text: str) -> int:
    """64 bits of a text: two of ten million differ in it but for a chance of 3 in a million."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _is_in_a_row(group: IndexedGroup) -> bool:
    """Whether the members lie one after the other, as they do in a tar."""
    spans = (*group.image_spans, group.json_span)
    return bool(group.image_spans) and all(
        later == offset + padded(length) for (offset, length), (later, _) in pairwise(spans)
    )


def padded(length: int) -> int:
    """Bytes from the contents of a member of so many bytes to those of the next."""
    return -(-length // BLOCKSIZE) * BLOCKSIZE + BLOCKSIZE


def _rows(index: ShardIndex) -> "pa.RecordBatch":
    import pyarrow as pa

    groups = index.groups
    columns = [
        [group.caption_id for group in groups],
        [group.caption for group in groups],
        [text_hash(group.caption) for group in groups],
        [group.image_spans[0][0] for group in groups],
        [[length for _, length in (*group.image_spans, group.json_span)] for group in groups],
    ]
    arrays = [pa.array(values, kind) for values, kind in zip(columns, _columns().values(), strict=True)]
    return pa.RecordBatch.from_arrays(arrays, names=list(_columns()))
