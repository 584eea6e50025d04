"""A dataset that is followed: what is read of it, once the manifest says where most of it lies."""

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from stablerep.data.corpus import arriving
from stablerep.data.corpus.growing import GrowingDataset
from stablerep.shards import Group, build_tar, commit_shard
from stablerep.shards.captions_file import write_captions
from stablerep.shards.group import skipped_group
from stablerep.shards.layout import block_key, index_key, manifest_key, planned_key, shard_key
from stablerep.shards.manifest import read_manifest, update_block
from tests.training import describe

SHARDS, EACH = 1004, 2
"""One block of the manifest, and a little of the next."""
SKIPPED = 7


class Growing:
    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        describe(folder.as_uri())
        self.dataset = f"{folder.as_uri()}/datasets/stripes"
        self.reads: Counter[str] = Counter()
        self.store = self._open(folder, monkeypatch)
        for shard in range(SHARDS):
            ids = range(shard * EACH, (shard + 1) * EACH)
            write_captions(self.store, "stripes", shard, [(id_, f"caption {id_}") for id_ in ids])
        self.store.put(planned_key("stripes"), json.dumps({"shards": SHARDS}).encode())

    def _open(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        from stablerep.storage.local.store import LocalStore

        get, get_range = LocalStore.get, LocalStore.get_range

        def counted(store, key):
            self.reads[key.split("/")[2]] += 1
            return get(store, key)

        def counted_range(store, key, offset, length):
            self.reads["range"] += 1
            return get_range(store, key, offset, length)

        monkeypatch.setattr(LocalStore, "get", counted)
        monkeypatch.setattr(LocalStore, "get_range", counted_range)
        return LocalStore(folder)

    def commit(self, shards, mark: bytes = b"") -> None:
        for shard in shards:
            ids = range(shard * EACH, (shard + 1) * EACH)
            groups = [
                skipped_group(id_, f"caption {id_}", "why") if id_ == SKIPPED else group(id_, mark)
                for id_ in ids
            ]
            commit_shard(self.store, "stripes", shard, build_tar(groups))

    def renew(self, block: int = 0) -> None:
        assert update_block(self.store, "stripes", block, SHARDS, over=False)


def group(id_: int, mark: bytes = b"") -> Group:
    return Group(id_, f"caption {id_}", (mark + b"%d" % id_, mark + b"x" * (id_ % 5 + 1)))


@pytest.fixture
def growing(tmp_path, monkeypatch) -> Growing:
    return Growing(tmp_path, monkeypatch)


def check(found: GrowingDataset, ids: list[int]) -> None:
    for id_, one in zip(ids, found.read(ids), strict=True):
        assert (one.caption_id, one.caption) == (id_, f"caption {id_}")
        assert one.encoded == (() if id_ == SKIPPED else group(id_).encoded)
    numbers = [[1, 0, 5][: id_ % 4] for id_ in ids]  # five: there is no such image
    for id_, wanted, images in zip(ids, numbers, found.images(ids, numbers), strict=True):
        there = () if id_ == SKIPPED else group(id_).encoded
        assert images == [there[number] if number < len(there) else b"" for number in wanted]
    assert found.counts_there(np.array(ids)).tolist() == [0 if id_ == SKIPPED else 2 for id_ in ids]


def test_shards_of_the_manifest_need_no_index(growing):
    growing.commit(range(1002))
    growing.renew()
    found = GrowingDataset(growing.dataset)
    assert len(found) == SHARDS * EACH
    assert list(found.captions) == [f"caption {id_}" for id_ in range(SHARDS * EACH)]
    growing.reads.clear()
    check(found, [0, SKIPPED, 1999, 500, 2001])
    check(found, [2000, 2001, 2003])
    assert growing.reads["index"] == 2  # of shards 1,000 and 1,001, which are in no block


def test_indexes_that_were_read_are_let_go_once_the_manifest_has_their_shards(growing, monkeypatch):
    growing.commit(range(1000))
    found = GrowingDataset(growing.dataset)
    for _ in range(2):
        check(found, [5, 1000, SKIPPED])
    assert growing.reads["index"] == 3
    assert len(found._arriving._read) == 3
    growing.renew()
    monkeypatch.setattr(arriving, "_LOOK_SECONDS", 0.0)
    growing.commit([1001])
    growing.reads.clear()
    check(found, [2002, 5, 1000, SKIPPED, 1234])
    assert growing.reads["index"] == 1
    assert set(found._arriving._read) == {1001}


def test_the_manifest_is_looked_at_once_a_minute(growing):
    growing.commit(range(30))
    found = GrowingDataset(growing.dataset)
    growing.reads.clear()
    check(found, list(range(60)))
    assert growing.reads["manifest"] <= 1
    assert growing.reads["index"] == 30


def test_a_shard_that_was_made_again_is_found_by_its_index(growing, caplog):
    growing.commit(range(1000))
    growing.renew()
    found = GrowingDataset(growing.dataset)
    check(found, [10])
    growing.store.delete_many([index_key("stripes", 5), shard_key("stripes", 5)])
    growing.commit([5], mark=b"again")
    (one,) = found.read([10])
    assert one.encoded == group(10, b"again").encoded
    assert found.images([10, 12], [[1], [0, 1]]) == [[one.encoded[1]], list(group(12).encoded)]
    assert "the manifest" in caplog.text


def test_a_damaged_block_is_told_once_and_the_indexes_are_read(growing, monkeypatch, caplog):
    growing.commit(range(1000))
    growing.renew()
    (entry,) = read_manifest(growing.store, "stripes").blocks
    key = block_key("stripes", 0, entry.sha256)
    growing.store.put(key, growing.store.get(key)[:-9])
    monkeypatch.setattr(arriving, "_LOOK_SECONDS", 0.0)
    found = GrowingDataset(growing.dataset)
    check(found, [5, 1000, SKIPPED])
    assert caplog.text.count("cannot be used") == 1
    growing.store.put(manifest_key("stripes"), b"{")
    check(found, [8, 1000])
