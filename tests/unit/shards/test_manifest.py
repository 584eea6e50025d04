"""Manifests: blocks follow the indexes, and a dataset opened from them is the one opened without."""

import logging

import pytest

from stablerep.data import GroupDataset
from stablerep.errors import NotFound, TornObject
from stablerep.shards import Group, build_tar, commit_shard
from stablerep.shards.group import skipped_group
from stablerep.shards.layout import block_key, index_key, manifest_key, shard_key
from stablerep.shards.manifest import drop_from_manifest, read_manifest, update_block
from stablerep.storage import open_store

SHARDS = 1004
NAME = "shoes"


def groups_of(shard: int, note: str = "") -> list[Group]:
    made = [
        Group(
            3 * shard + k,
            f"caption {(3 * shard + k) % 500}",
            (b"image" * (shard % 9 + 1), note.encode() or b"x"),
        )
        for k in range(2)
    ]
    return [*made, skipped_group(3 * shard + 2, "lost", "no image")] if shard % 10 == 0 else made


@pytest.fixture
def store(tmp_path):
    """A dataset of two blocks; shards 3 and 1001 are missing."""
    store = open_store(tmp_path / "store")
    for shard in range(SHARDS):
        if shard not in (3, 1001):
            commit_shard(store, NAME, shard, build_tar(groups_of(shard)))
    return store


def url(store) -> str:
    return f"{store.url}/datasets/{NAME}"


def contents(dataset: GroupDataset) -> list:
    return [
        dataset.shards,
        list(dataset.captions),
        dataset.image_counts.tolist(),
        dataset.labels.tolist(),
        [dataset[i] for i in range(0, len(dataset), 97)],
        dataset.where(len(dataset) - 1),
    ]


def write(store, *, over: bool = True, verify: bool = False) -> list[bool]:
    return [update_block(store, NAME, number, SHARDS, over=over, verify=verify) for number in range(2)]


def test_a_dataset_opened_from_its_manifest_is_the_same(store):
    without = contents(GroupDataset(url(store)))
    assert write(store) == [True, True]
    assert [(block.end, block.missing) for block in read_manifest(store, NAME).blocks] == [
        (1000, (3,)),
        (1004, (1001,)),
    ]
    assert contents(GroupDataset(url(store))) == without
    assert write(store) == write(store, verify=True) == [False, False]


def test_nothing_is_read_but_the_blocks(store, monkeypatch):
    for shard in (3, 1001):
        commit_shard(store, NAME, shard, build_tar(groups_of(shard)))
    write(store)
    store.put(f"datasets/{NAME}/job/planned.json", b'{"shards": 1004}')
    monkeypatch.setattr("stablerep.data.corpus.opening.read_index", None)
    monkeypatch.setattr(type(store), "list", None)
    assert len(GroupDataset(url(store))) == 2 * SHARDS


def test_while_a_job_runs_only_whole_blocks_are_written(store):
    assert write(store, over=False) == [False, False]
    commit_shard(store, NAME, 3, build_tar(groups_of(3)))
    assert write(store, over=False) == [True, False]


def test_a_shard_that_came_later_is_in_its_place(store):
    write(store)
    commit_shard(store, NAME, 3, build_tar(groups_of(3)))
    commit_shard(store, NAME, 1001, build_tar(groups_of(1001)))
    found = GroupDataset(url(store))
    assert found.shards == tuple(range(SHARDS))
    assert [found[i].caption_id for i in range(5, 9)] == [7, 9, 10, 12]
    assert write(store) == [True, True]
    assert contents(GroupDataset(url(store))) == contents(found)
    assert len(list(store.list(f"datasets/{NAME}/manifest/"))) == 3, "the old blocks are gone"


def test_a_run_keeps_to_its_shards(store):
    write(store)
    some = GroupDataset(url(store), shards=[1003, 1, 2, 0, 999])
    assert some.shards == (0, 1, 2, 999, 1003)
    assert [group.caption_id for group in some] == [0, 1, 3, 4, 6, 7, 2997, 2998, 3009, 3010]
    with pytest.raises(NotFound, match="shard 3 "):
        GroupDataset(url(store), shards=[1, 3])


def test_a_shard_leaves_the_manifest_before_it_is_made_again(store):
    write(store)
    drop_from_manifest(store, NAME, [1003])
    assert [block.number for block in read_manifest(store, NAME).blocks] == [0]
    store.delete(index_key(NAME, 1003))
    assert GroupDataset(url(store)).shards[-1] == 1002
    assert write(store) == [False, True]


@pytest.mark.parametrize("damage", ["cut", "changed", "gone", "list"])
def test_a_torn_manifest_is_passed_over_and_made_again(store, damage, caplog):
    whole = contents(GroupDataset(url(store)))
    write(store)
    first = read_manifest(store, NAME).blocks[0]
    key = block_key(NAME, 0, first.sha256)
    data = store.get(key)
    if damage == "cut":
        store.put(key, data[:-5])
    if damage == "changed":
        store.put(key, data[:4000] + bytes([data[4000] ^ 1]) + data[4001:])
    if damage == "gone":
        store.delete(key)
    if damage == "list":
        store.put(manifest_key(NAME), b'{"blocks": [')
        with pytest.raises(TornObject, match="delete it"):
            read_manifest(store, NAME)
    with caplog.at_level(logging.WARNING):
        assert contents(GroupDataset(url(store))) == whole
    assert "manifest" in caplog.text
    write(store, verify=True)
    caplog.clear()
    assert contents(GroupDataset(url(store))) == whole
    assert store.get(key) == data
    assert not caplog.text


def test_a_stale_manifest_is_found_when_a_group_is_read(store, caplog):
    write(store)
    dataset = GroupDataset(url(store))
    for key in (index_key(NAME, 5), shard_key(NAME, 5)):
        store.delete(key)
    commit_shard(store, NAME, 5, build_tar(groups_of(5, "made again, longer")))
    place = list(dataset.captions).index("caption 15")
    with caplog.at_level(logging.WARNING):
        assert dataset[place].encoded[1] == dataset[place + 1].encoded[1] == b"made again, longer"
        assert dataset.images([place, 0], [[1], [0]]) == [[b"made again, longer"], [dataset[0].encoded[0]]]
    assert len(caplog.records) == 1
    assert write(store) == [False, False], "nothing says so from outside"
    assert write(store, verify=True) == [True, False]
    assert GroupDataset(url(store))[place].encoded[1] == b"made again, longer"


def test_a_damaged_tar_is_still_one(store):
    write(store)
    store.put(shard_key(NAME, 5), b"no tar")
    dataset = GroupDataset(url(store))
    with pytest.raises(TornObject, match="reconcile"):
        dataset[list(dataset.captions).index("caption 15")]
    with pytest.raises(TornObject, match="reconcile"):
        dataset.images([list(dataset.captions).index("caption 15")], [[0]])
