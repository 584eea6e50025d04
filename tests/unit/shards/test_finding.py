"""Groups found by their caption in few reads, and read together in few requests."""

import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from stablerep.errors import InvalidInput, NotFound, TornObject
from stablerep.shards import (
    Group,
    IndexedGroup,
    build_tar,
    commit_shard,
    find_group,
    read_group,
    read_groups,
    read_images,
    read_index,
    skipped_group,
    write_captions,
)
from stablerep.shards.layout import planned_key, shard_key
from stablerep.storage import open_store
from stablerep.storage.interface import Store


class Counting:
    """A store that counts the calls that reach it."""

    def __init__(self, store: Store) -> None:
        self.store, self.calls = store, Counter[str]()

    def __getattr__(self, name: str) -> Any:
        self.calls[name] += 1
        return getattr(self.store, name)


def planned(tmp_path: Path, ids: list[list[int]], unfinished: set[int] = frozenset()) -> Counting:  # type: ignore[assignment]
    """A dataset `shoes` whose shards hold groups of these captions."""
    store = open_store(tmp_path)
    for shard, captions in enumerate(ids):
        write_captions(store, "shoes", shard, [(id_, f"caption {id_}") for id_ in captions])
        if shard not in unfinished:
            groups = [Group(id_, f"caption {id_}", (b"a" * (id_ % 700 + 1), b"b" * 3)) for id_ in captions]
            commit_shard(store, "shoes", shard, build_tar(groups))
    store.put(planned_key("shoes"), json.dumps({"shards": len(ids)}).encode())
    return Counting(store)


@pytest.mark.parametrize("skips", ["none", "some", "uneven"])
def test_every_caption_is_found_and_no_other(tmp_path: Path, skips: str) -> None:
    drawn = random.Random(0)
    share = {"none": 1.0, "some": 0.8, "uneven": 0.5}[skips]
    numbers = [n for n in range(400) if skips == "none" or drawn.random() < share or n < 100]
    if skips == "uneven":
        numbers = [n * n for n in numbers]
    ids = [numbers[start : start + 4] for start in range(0, len(numbers), 4)]
    store = planned(tmp_path, ids)
    most = 0
    for shard, captions in enumerate(ids):
        for caption_id in captions:
            store.calls.clear()
            found = find_group(store, "shoes", caption_id)  # type: ignore[arg-type]
            assert (found[0], found[1].caption_id) == (shard, caption_id)
            assert store.calls["list"] == 0
            most = max(most, store.calls["get"])
    assert most <= {"none": 5, "some": 8, "uneven": 16}[skips]
    for missing in drawn.sample(sorted({-1, *range(numbers[-1] + 9)} - set(numbers)), 8):
        with pytest.raises(NotFound, match=f"caption {missing}"):
            find_group(store, "shoes", missing)  # type: ignore[arg-type]


def test_unfinished_shards_are_known_by_what_was_planned(tmp_path: Path) -> None:
    ids = [list(range(start, start + 5)) for start in range(0, 500, 5)]
    store = planned(tmp_path, ids, unfinished=set(range(0, 100, 3)))
    for shard, captions in enumerate(ids):
        if shard % 3:
            assert find_group(store, "shoes", captions[2])[0] == shard  # type: ignore[arg-type]
        else:
            with pytest.raises(NotFound, match=f"shard {shard}, to which it would belong, is not finished"):
                find_group(store, "shoes", captions[2])  # type: ignore[arg-type]


def test_a_skipped_caption_says_why_and_shards_that_no_job_made_are_listed(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    commit_shard(store, "own", 0, build_tar([Group(0, "a", (b"1",)), Group(4, "b", (b"2",))]))
    commit_shard(store, "own", 7, build_tar([skipped_group(5, "c", "it was black"), Group(6, "d", (b"3",))]))
    assert find_group(store, "own", 6)[0] == 7
    with pytest.raises(InvalidInput, match="it was black"):
        find_group(store, "own", 5)
    with pytest.raises(NotFound):
        find_group(store, "own", 3)
    with pytest.raises(NotFound):
        find_group(store, "nothing", 0)


def indexed(store: Any, shard: int) -> list[tuple[int, IndexedGroup]]:
    index = read_index(store, "shoes", shard)
    assert index is not None
    return [(shard, group) for group in index.groups]


def test_groups_that_lie_together_come_by_one_read(tmp_path: Path) -> None:
    store = planned(tmp_path, [list(range(start, start + 50)) for start in (0, 50)])
    placed = indexed(store, 0) + indexed(store, 1)
    alone = [read_group(store, "shoes", shard, group) for shard, group in placed]  # type: ignore[arg-type]
    store.calls.clear()
    assert read_groups(store, "shoes", placed) == alone  # type: ignore[arg-type]
    assert store.calls["get_range"] == 2
    store.calls.clear()
    order = random.Random(1).sample(range(100), 100)
    assert read_groups(store, "shoes", [placed[n] for n in order]) == [alone[n] for n in order]  # type: ignore[arg-type]
    assert store.calls["get_range"] > 80
    assert read_groups(store, "shoes", []) == []  # type: ignore[arg-type]


def test_of_a_group_no_more_than_the_wanted_images_is_read(tmp_path: Path) -> None:
    store = Counting(open_store(tmp_path))
    groups = [
        Group(n, f"caption {n}", tuple(bytes([10 * n + k]) * (50 << 10) for k in range(4))) for n in range(3)
    ]
    commit_shard(store.store, "shoes", 0, build_tar(groups))
    placed = indexed(store, 0)
    store.calls.clear()
    wanted = [[3, 1, 3], [], [0, 9]]
    found = read_images(store, "shoes", placed, wanted)  # type: ignore[arg-type]
    assert found == [[groups[0].encoded[n] for n in (3, 1, 3)], [], [groups[2].encoded[0], b""]]
    assert store.calls["get_range"] == 2, "more lies between them than a request costs"
    store.calls.clear()
    assert read_images(store, "shoes", placed[:2], [[3], [0]]) == [  # type: ignore[arg-type]
        [groups[0].encoded[3]],
        [groups[1].encoded[0]],
    ]
    assert store.calls["get_range"] == 1


def test_groups_far_apart_or_large_are_read_by_themselves(tmp_path: Path) -> None:
    store = Counting(open_store(tmp_path))
    large = [Group(n, f"caption {n}", (bytes([n + 1]) * (3 << 20),)) for n in range(5)]
    commit_shard(store.store, "shoes", 0, build_tar(large))
    placed = indexed(store, 0)
    store.calls.clear()
    assert read_groups(store, "shoes", placed) == large  # type: ignore[arg-type]
    assert store.calls["get_range"] == 3
    store.calls.clear()
    assert read_groups(store, "shoes", placed[::2]) == large[::2]  # type: ignore[arg-type]
    assert store.calls["get_range"] == 3


def test_a_changed_tar_is_told_with_the_group_that_is_not_there(tmp_path: Path) -> None:
    store = planned(tmp_path, [[0, 1, 2]])
    placed = indexed(store, 0)
    other = build_tar([Group(0, "caption 0", (b"a", b"b" * 3)), Group(2, "other", (b"c",))])
    store.store.put(shard_key("shoes", 0), other)
    with pytest.raises(TornObject, match=r"caption 1\b"):
        read_groups(store, "shoes", placed)  # type: ignore[arg-type]
    with pytest.raises(TornObject, match=r"caption 1\b"):
        read_images(store, "shoes", placed, [[0]] * 3)  # type: ignore[arg-type]
    store.store.put(shard_key("shoes", 0), other[:600])
    with pytest.raises(TornObject, match="reconcile shoes --verify"):
        read_groups(store, "shoes", placed)  # type: ignore[arg-type]
