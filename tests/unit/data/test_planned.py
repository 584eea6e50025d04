"""A plan is read from its files; what they lack, or hold damaged, from the captions objects."""

import logging

import pytest

from stablerep.captions import Caption
from stablerep.data.corpus.planned import read_plan
from stablerep.errors import NotFound
from stablerep.shards.captions_file import write_captions
from stablerep.shards.layout import captions_key, plan_key
from stablerep.shards.plan_file import pack_plan
from stablerep.storage import open_store

SHARDS = [[Caption(shard * 10 + n, f"shoe {shard} {n}") for n in range(shard % 3)] for shard in range(7)]
FILES = {0: SHARDS[:3], 3: SHARDS[3:5], 5: SHARDS[5:]}


@pytest.fixture
def store(tmp_path):
    """A plan of seven shards, in three files too."""
    store = open_store(tmp_path)
    for number, captions in enumerate(SHARDS):
        write_captions(store, "shoes", number, captions)
    for first, shards in FILES.items():
        store.put(plan_key("shoes", first), pack_plan(shards))
    return store


def found(store, shards=7):
    parts = read_plan(store, "shoes", shards)
    ids = [id_ for part in parts for id_ in part.ids.to_pylist()]
    texts = [text for part in parts for text in part.texts.to_pylist()]
    return [size for part in parts for size in part.sizes], list(map(Caption, ids, texts))


WANTED = (list(map(len, SHARDS)), [caption for shard in SHARDS for caption in shard])


def test_files_alone_suffice(store):
    for number in range(len(SHARDS)):
        store.delete(captions_key("shoes", number))
    assert found(store) == WANTED


@pytest.mark.parametrize("gone", [(0,), (3,), (5,), (0, 5), (3, 5), (0, 3, 5)], ids=str)
def test_objects_stand_in_for_files(store, gone):
    for first in gone:
        store.delete(plan_key("shoes", first))
    assert found(store) == WANTED


@pytest.mark.parametrize("data", [b"torn", pack_plan(SHARDS[3:4])], ids=["torn", "another number of shards"])
def test_a_damaged_file_is_told_and_not_used(store, data, caplog):
    store.put(plan_key("shoes", 3), data)
    with caplog.at_level(logging.WARNING, "stablerep"):
        assert found(store) == WANTED
    assert "plan/000003.arrow" in caplog.text


def test_files_beyond_the_plan_are_not_read(store):
    store.put(plan_key("shoes", 7), b"of another plan")
    assert found(store) == WANTED


def test_no_shards_no_captions(store):
    assert found(store, 0) == ([], [])


def test_progress_is_told_until_the_end_is_near(store):
    told = []
    read_plan(store, "shoes", len(SHARDS), lambda shards, seconds: told.append(shards))
    assert told == [3, 5]


def test_captions_that_are_nowhere(store):
    store.delete(plan_key("shoes", 3))
    store.delete(captions_key("shoes", 4))
    with pytest.raises(NotFound):
        found(store)
