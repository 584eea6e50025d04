"""A plan's file holds what it was given, and nothing that is damaged is taken for it."""

import pyarrow as pa
import pytest

from stablerep.captions import Caption
from stablerep.errors import TornObject
from stablerep.shards.plan_file import pack_plan, unpack_plan

SHARDS = [[Caption(3, "a grey bag"), Caption(7, "")], [], [Caption(8, "ein grauer Schuh, größer 👟\n")]]


@pytest.mark.parametrize("shards", [SHARDS, [], [[]]], ids=["some", "none", "empty"])
def test_what_is_packed_is_unpacked(shards):
    found = unpack_plan(pack_plan(shards))
    captions = [caption for shard in shards for caption in shard]
    assert found.sizes == [len(shard) for shard in shards]
    assert found.ids.to_pylist() == [caption.id for caption in captions]
    assert found.texts.to_pylist() == [caption.text for caption in captions]
    assert pack_plan(shards) == pack_plan(shards)


def test_it_is_smaller_than_its_texts():
    shards = [[Caption(n, f"white plain ankle boot number {n} with a high heel")] for n in range(1000)]
    assert len(pack_plan(shards)) < 0.3 * sum(len(shard[0].text) for shard in shards)


def other(columns: dict, metadata: dict) -> bytes:
    batch = pa.RecordBatch.from_pydict(columns).replace_schema_metadata(metadata)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return sink.getvalue().to_pybytes()


def test_anything_else_is_torn():
    whole = pack_plan(SHARDS)
    ids, texts = pa.array([1, 2]), pa.array(["a", "b"], pa.large_string())
    wrong = [
        b"",
        b"{}",
        whole[: len(whole) // 2],
        whole[:-1],
        other({"id": ids, "caption": texts}, {}),
        other({"id": ids, "caption": texts}, {"stablerep": "[1]"}),
        other({"id": ids, "caption": texts}, {"stablerep": "[1, 2]"}),
        other({"id": ids, "caption": texts}, {"stablerep": "2"}),
        other({"id": ids, "caption": texts}, {"stablerep": "[null]"}),
        other({"id": ids, "caption": pa.array(["a", "b"])}, {"stablerep": "[2]"}),
        other({"id": ids}, {"stablerep": "[2]"}),
    ]
    for data in wrong:
        with pytest.raises(TornObject):
            unpack_plan(data)
    assert unpack_plan(other({"id": ids, "caption": texts}, {"stablerep": "[2]"})).sizes == [2]
