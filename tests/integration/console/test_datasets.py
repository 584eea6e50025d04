"""Pages of a dataset while its shards come and its manifest grows, against the same read for training."""

import json
import random
import time
from pathlib import Path

import pytest

from services.console import datasets
from services.console.datasets import Datasets
from stablerep.data import GroupDataset
from stablerep.errors import InvalidInput, NotFound
from stablerep.shards import Group, build_tar, commit_shard, skipped_group, write_captions
from stablerep.shards.layout import dataset_prefix, index_key, index_prefix, planned_key, shard_key
from stablerep.shards.manifest import update_block
from stablerep.storage import Store, open_store

SHARDS = 2300


def shard_of(number: int) -> list[Group]:
    """Two groups, the captions of which are skipped in one shard of fifty."""
    found = []
    for caption_id in (2 * number, 2 * number + 1):
        caption = f"Caption {caption_id} of a {('red', 'BLUE', 'grün')[caption_id % 3]} shoe"
        if number % 50 == 7:
            found.append(skipped_group(caption_id, caption, f"black {caption_id}"))
        else:
            found.append(Group(caption_id, caption, (b"a" * (caption_id % 90 + 1), b"b"), {"seeds": [1, 2]}))
    return found


def commit(store: Store, numbers: range | list[int]) -> None:
    for number in numbers:
        groups = shard_of(number)
        write_captions(store, "shoes", number, [(group.caption_id, group.caption) for group in groups])
        commit_shard(store, "shoes", number, build_tar(groups))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    """1,000 shards in the manifest, and 1,299 that are not: one is missing in the middle."""
    store = open_store(tmp_path_factory.mktemp("store"))
    commit(store, [number for number in range(SHARDS) if number != 1500])
    store.put(planned_key("shoes"), json.dumps({"shards": SHARDS}).encode())
    update_block(store, "shoes", 0, SHARDS, over=False)
    return store


def pages(dataset: datasets.Dataset, size: int) -> list[tuple[int, int]]:
    found = []
    for first in range(0, len(dataset), size):
        found += [(shard, group.caption_id) for shard, group in dataset.places(first, size)]
    return found


def test_pages_are_the_groups_in_order_while_shards_come(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "FRESH_SECONDS", 0.0)
    shown = Datasets(store)
    dataset = shown.open("shoes")
    trained = GroupDataset(f"{store.url}/datasets/shoes")
    wanted = [group.caption_id for group in trained]
    assert [caption_id for _, caption_id in pages(dataset, 24)] == wanted
    assert (len(dataset), dataset.images, dataset.shards) == (len(wanted), 2 * len(wanted), SHARDS - 1)
    random.seed(0)
    for first in random.sample(range(len(dataset)), 20):
        groups = shown.read("shoes", dataset.places(first, 24))
        assert groups == [trained[index] for index in range(first, min(first + 24, len(trained)))]
    commit(store, [1500])
    update_block(store, "shoes", 1, SHARDS, over=False)
    dataset = shown.open("shoes")
    assert len(dataset) == len(wanted) + 2
    assert [caption_id for _, caption_id in pages(dataset, 100)] == sorted([*wanted, 3000, 3001])


def test_a_shard_that_was_made_again_is_shown_before_the_manifest_hears_of_it(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit(store, range(1000))
    store.put(planned_key("shoes"), json.dumps({"shards": 1000}).encode())
    update_block(store, "shoes", 0, 1000, over=False)
    shown = Datasets(store)
    dataset = shown.open("shoes")
    before = shown.read("shoes", dataset.places(0, 6))
    store.delete_many([index_key("shoes", 1), shard_key("shoes", 1)])
    other = [Group(number, f"Caption {number}", (b"other" * 30, b"c")) for number in (2, 3)]
    commit_shard(store, "shoes", 1, build_tar(other))
    assert shown.read("shoes", dataset.places(0, 6)) == [*before[:2], *other, *before[4:]]
    store.delete_many([index_key("shoes", 1), shard_key("shoes", 1)])
    with pytest.raises(NotFound):
        shown.read("shoes", dataset.places(0, 6))


def test_captions_are_searched_in_any_case_and_a_search_goes_on(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = Datasets(store).open("shoes")
    trained = GroupDataset(f"{store.url}/datasets/shoes")
    for text in ("blue SHOE", "GRÜN", "caption 41", "%", "", "no such"):
        wanted = [index for index, caption in enumerate(trained.captions) if text.lower() in caption.lower()]
        found: list[int] = []
        start: int | None = 0
        while start is not None:
            page = dataset.search(text, start, 100)
            found += [position for position, _ in page.places]
            start = page.following
        assert found == wanted, text
    monkeypatch.setattr(datasets, "SEARCH_SECONDS", -1.0)
    page = dataset.search("no such", 0, 10)
    assert (page.places, page.following, page.searched) == ([], 0, 0)


def test_skipped_captions_are_found_in_the_manifest_and_outside(store: Store) -> None:
    dataset = Datasets(store).open("shoes")
    wanted = {(number, 2 * number + more) for number in range(7, SHARDS, 50) for more in (0, 1)}
    found = {(shard, one.caption_id) for shard, one in dataset.skipped(1000)}
    assert found == wanted
    assert len(dataset.skipped(10)) == 10


def test_one_group_is_found_by_its_caption_and_not_kept_for_ever(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    shown = Datasets(store)
    assert shown.group("shoes", 41).caption == "Caption 41 of a grün shoe"
    with pytest.raises(InvalidInput, match="black 14"):
        shown.group("shoes", 14)
    with pytest.raises(NotFound):
        shown.group("shoes", 10**9)
    with pytest.raises(InvalidInput):
        shown.group("../shoes", 1)
    monkeypatch.setattr(datasets, "KEPT_SECONDS", 0.0)
    reads = []
    monkeypatch.setattr(Datasets, "read", lambda self, name, places: reads.append(places) or [None])
    shown.group("shoes", 41)
    assert len(reads) == 1


def test_what_is_kept_is_bounded(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "KEPT_BYTES", 20_000)
    shown = Datasets(store)
    dataset = shown.open("shoes")
    for first in range(0, 400, 24):
        shown.read("shoes", dataset.places(first, 24))
    assert shown._bytes <= 20_000
    assert shown._bytes == sum(datasets._size(group) for _, group in shown._groups.values())


def test_a_large_dataset_is_opened_with_nothing_listed_but_what_is_open(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All planned shards are in whole blocks or in the last one: only that one is looked at."""
    listed: list[str] = []
    lists = type(store).list

    def listing(self, prefix: str = ""):
        listed.append(prefix)
        return lists(self, prefix)

    monkeypatch.setattr(type(store), "list", listing)
    update_block(store, "shoes", 1, SHARDS, over=False)
    listed.clear()
    Datasets(store).open("shoes")
    assert index_prefix("shoes") not in listed
    assert [prefix for prefix in listed if prefix.startswith(dataset_prefix("shoes"))] == [
        f"{index_prefix('shoes')}002"
    ]


def test_a_deleted_dataset_is_gone_from_the_pages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "FRESH_SECONDS", 0.0)
    store = open_store(tmp_path)
    commit(store, range(3))
    shown = Datasets(store)
    assert len(shown.open("shoes")) == 6
    assert shown.names() == ["shoes"]
    store.delete_many([info.key for info in store.list(dataset_prefix("shoes"))])
    time.sleep(0.01)
    assert len(shown.open("shoes")) == 0
    assert shown.names() == []
