"""Rows of a manifest's block give back what the indexes say; labels, orders and offsets equal plain ones."""

import random

import numpy as np
import pyarrow as pa
import pytest

from stablerep.data.batches.order import epoch_order
from stablerep.data.corpus.offsets import Offsets
from stablerep.data.corpus.rows import Captions, Piece, Pieces, Rows, first_with_hash
from stablerep.errors import TornObject
from stablerep.shards import Group, IndexedGroup, ShardIndex, build_tar, index_tar
from stablerep.shards.block import build_block, open_block, pack_block, shards_of, text_hash
from stablerep.shards.group import skipped_group


def shard(generator: random.Random, first: int, number: int) -> ShardIndex:
    """The index of a real tar: groups of one to four images, some captions skipped."""
    groups = []
    for caption_id in range(first, first + number):
        if generator.random() < 0.2:
            groups.append(skipped_group(caption_id, "lost", "no image"))
            continue
        images = tuple(
            generator.randbytes(generator.randrange(1, 2000)) for _ in range(generator.randrange(1, 5))
        )
        groups.append(Group(caption_id, f"caption {caption_id % 7} – “é”", images, {"seed": caption_id}))
    return index_tar(build_tar(groups))


@pytest.fixture
def indexes() -> list[tuple[int, ShardIndex]]:
    generator = random.Random(0)
    numbers = [2000, 2001, 2005, 2999]
    return [(n, shard(generator, 100 * i, 0 if n == 2005 else 40)) for i, n in enumerate(numbers)]


def rows(indexes) -> Rows:
    return Rows(open_block(pa.py_buffer(pack_block(build_block(indexes)))), in_manifest=True)


def test_groups_come_back_as_their_indexes_have_them(indexes):
    made = rows(indexes)
    whole = [(number, group) for number, index in indexes for group in index.groups]
    assert len(made) == len(whole) > 50
    assert [(made.shard(row), made.group(row)) for row in range(len(made))] == whole
    assert made.image_counts.tolist() == [len(group.image_spans) for _, group in whole]
    assert made.ids.tolist() == [group.caption_id for _, group in whole]
    assert made.hashes.tolist() == [text_hash(group.caption) for _, group in whole]
    assert [made.rows_of(place) for place in range(4)][1:3] == [
        (len(indexes[0][1].groups), len(indexes[0][1].groups) + len(indexes[1][1].groups)),
        (len(indexes[0][1].groups) + len(indexes[1][1].groups),) * 2,
    ]


def test_a_block_says_which_tars_it_describes(indexes):
    found = shards_of(build_block(indexes))
    assert list(zip(found.numbers, found.sha256, found.sizes, strict=True)) == [
        (number, index.sha256, index.size) for number, index in indexes
    ]
    assert found.skipped == [len(index.skipped) for _, index in indexes]


def test_equal_blocks_are_equal_bytes(indexes):
    assert pack_block(build_block(indexes)) == pack_block(build_block(list(indexes)))


def test_a_block_of_nothing_is_nothing():
    assert len(rows([])) == 0
    assert len(Pieces([])) == 0
    assert Pieces([]).image_counts().shape == (0,)


def test_pieces_are_one_sequence(indexes):
    made = rows(indexes)
    pieces = Pieces([Piece(made, 3, 10), Piece(made, 20, 20), Piece(made, 0, 2)])
    wanted = [*range(3, 10), 0, 1]
    assert [pieces.locate(i)[1] for i in range(len(pieces))] == wanted
    captions = Captions(pieces)
    assert list(captions) == [captions[i] for i in range(9)] == [made.caption(row) for row in wanted]
    assert captions[-2:] == [made.caption(0), made.caption(1)]
    assert pieces.hashes().tolist() == made.hashes[wanted].tolist()


def test_an_index_of_no_tar_is_refused():
    good = shard(random.Random(1), 0, 5)
    group = good.groups[0]
    moved = group.model_copy(update={"json_span": (group.json_span[0] + 512, group.json_span[1])})
    for groups in ((moved,), (IndexedGroup(caption_id=1, caption="x", json_span=(512, 9), image_spans=()),)):
        with pytest.raises(TornObject, match="shard 7"):
            build_block([(7, good.model_copy(update={"groups": groups}))])


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "columns", "shards"])
def test_anything_else_is_no_block(indexes, damage):
    block = build_block(indexes)
    data = {
        "cut": pack_block(block)[:-20],
        "empty": b"",
        "text": b"no block",
        "columns": pack_block(block.select(["caption"])),
        "shards": pack_block(block.replace_schema_metadata({})),
    }[damage]
    with pytest.raises(TornObject):
        Rows(open_block(pa.py_buffer(data)), in_manifest=True)


@pytest.mark.parametrize("number", [0, 1, 1000, 3 << 19])
def test_labels_are_the_first_index_of_each_text(number):
    texts = np.random.Generator(np.random.Philox(0)).integers(0, 2**64, max(1, number // 3), dtype=np.uint64)
    hashes = texts[np.random.Generator(np.random.Philox(1)).integers(0, len(texts), number)]
    first: dict[int, int] = {}
    assert first_with_hash(hashes).tolist() == [first.setdefault(h, i) for i, h in enumerate(hashes.tolist())]


@pytest.mark.parametrize("length", [1, 1000, (5 << 21) + 3])
def test_an_order_is_that_of_sorting_all_at_once(length):
    drawn = np.random.Philox(key=3, counter=[0, 0, 0, 2]).random_raw(length)
    assert np.array_equal(epoch_order(3, 2, length), np.argsort(drawn, kind="stable"))


def test_offsets_are_running_totals():
    counts = np.random.Generator(np.random.Philox(2)).integers(0, 99, 1000).astype(np.int16)
    groups = np.arange(1000).reshape(50, 20)
    assert np.array_equal(Offsets(counts).before(groups), (np.cumsum(counts) - counts).reshape(50, 20))
    assert Offsets(counts).total == counts.sum()
    assert Offsets(counts[:0]).total == 0


@pytest.mark.parametrize("empty", [0.0, 0.9])
def test_offsets_locate_images(empty):
    drawn = np.random.Generator(np.random.Philox(3))
    counts = (drawn.integers(0, 9, 1000) * (drawn.random(1000) >= empty)).astype(np.int16)
    offsets, groups = Offsets(counts), np.repeat(np.arange(1000), counts)
    within = np.concatenate([np.arange(count) for count in counts])
    found = offsets.locate(np.arange(offsets.total))
    assert np.array_equal(found[0], groups)
    assert np.array_equal(found[1], within)
    assert np.array_equal(offsets.repeated(np.arange(1000)), groups)
