"""The captions of many planned shards in one Arrow file, for who reads a whole plan.

Columns `id` and `caption`; how many rows each shard has stands in the schema's metadata. It repeats what the
captions objects say, of which workers read one a shard: nothing is lost where it is missing.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from stablerep.captions.caption import Caption
from stablerep.errors import TornObject

if TYPE_CHECKING:
    import pyarrow as pa

SHARDS_PER_FILE = 1000
CAPTIONS_PER_FILE = 200_000
"""Captions after which a file ends before it has so many shards: what a planner holds in memory."""
_METADATA = b"stablerep"


@dataclass(frozen=True)
class PlanFile:
    """Captions of shards one after the other: `sizes` of them, ids int64 [n], texts large_string [n]."""

    sizes: list[int]
    ids: "pa.Array"
    texts: "pa.Array"


def pack_plan(shards: Sequence[Sequence[Caption]]) -> bytes:
    """The file of these shards; equal captions give equal bytes."""
    import pyarrow as pa  # not with this file: the command line, which reads no plan, starts without it

    metadata = {_METADATA: json.dumps([len(shard) for shard in shards])}
    schema = pa.schema([("id", pa.int64()), ("caption", pa.large_string())], metadata)
    captions = [caption for shard in shards for caption in shard]
    columns = [
        pa.array([c.id for c in captions], pa.int64()),
        pa.array([c.text for c in captions], pa.large_string()),
    ]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression="zstd")) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(columns, schema=schema))
    return sink.getvalue().to_pybytes()


def unpack_plan(data: bytes) -> PlanFile:
    """What `pack_plan` was given. Raises TornObject."""
    import pyarrow as pa

    try:
        with pa.ipc.open_file(data) as reader:
            batch = reader.get_batch(0)
            batch.validate(full=True)
            sizes = json.loads((reader.schema.metadata or {})[_METADATA])
            found = PlanFile([int(size) for size in sizes], batch.column("id"), batch.column("caption"))
    except (pa.ArrowException, OSError, ValueError, KeyError, TypeError) as error:
        raise TornObject(f"no file of a plan: {error}") from error
    if (found.ids.type, found.texts.type) != (pa.int64(), pa.large_string()) or sum(found.sizes) != len(
        batch
    ):
        raise TornObject("a file of a plan with other columns, or other rows, than it says")
    return found
