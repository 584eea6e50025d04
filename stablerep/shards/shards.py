"""Shards in a store: committing one so that tar and index always agree, and reading its groups back."""

from collections.abc import Iterator, Sequence
from tarfile import BLOCKSIZE

from pydantic import ValidationError

from stablerep.errors import NotFound, TornObject
from stablerep.shards.group import Group
from stablerep.shards.layout import index_key, shard_key
from stablerep.shards.tar import (
    IndexedGroup,
    ShardIndex,
    build_tar,
    check_header,
    index_tar,
    member_names,
    parse_group_json,
)
from stablerep.storage.interface import Store

__all__ = [
    "IndexedGroup",
    "ShardIndex",
    "build_tar",
    "commit_shard",
    "index_tar",
    "read_group",
    "read_groups",
    "read_index",
    "rebuild_index",
]


_MAX_GAP = 64 << 10
"""Bytes between two groups that take less time to read than another request."""
_MAX_RANGE = 8 << 20
"""Bytes of several groups that are read together."""


def commit_shard(store: Store, dataset: str, shard: int, tar: bytes, worker_ms: int = 0) -> ShardIndex:
    """Writes a shard unless another worker did, then the index of the tar that IS there: the commit marker.

    Any number of callers, with different tars, stopped at any point, are safe: the first tar stays, and
    the index returned and stored is its, with the time that this caller's worker took. Raises TornObject if
    that tar is damaged.
    """
    index = index_tar(tar, worker_ms)
    if store.put(shard_key(dataset, shard), tar, if_absent=True):
        _write_index(store, dataset, shard, index)
        return index
    return rebuild_index(store, dataset, shard, worker_ms)


def rebuild_index(store: Store, dataset: str, shard: int, worker_ms: int = 0) -> ShardIndex:
    """Stores the index of a tar that is in the store. Raises NotFound, and TornObject naming the object."""
    key = shard_key(dataset, shard)
    try:
        index = index_tar(store.get(key), worker_ms)
    except TornObject as error:
        raise TornObject(
            f"{key} is no whole shard: {error}. If a job wrote it, delete it to have it made again; to train "
            "on images of your own, see stablerep import --help"
        ) from error
    _write_index(store, dataset, shard, index)
    return index


def read_index(store: Store, dataset: str, shard: int) -> ShardIndex | None:
    """The index of a shard; None where it is not committed. Raises TornObject for a damaged index."""
    key = index_key(dataset, shard)
    try:
        data = store.get(key)
    except NotFound:
        return None
    try:
        return ShardIndex.model_validate_json(data)
    except ValidationError as error:
        raise TornObject(f"{key} is no index of a shard; delete it to have it made again") from error


def read_group(store: Store, dataset: str, shard: int, group: IndexedGroup) -> Group:
    """One group by one range read. Raises NotFound, and TornObject where tar and index disagree."""
    return read_groups(store, dataset, [(shard, group)])[0]


def read_groups(store: Store, dataset: str, placed: Sequence[tuple[int, IndexedGroup]]) -> list[Group]:
    """Groups by their shards, in this order; those that lie one after the other come by one range read.

    Raises NotFound, and TornObject where tar and index disagree.
    """
    found: list[Group] = []
    for shard, groups in _together(placed):
        first, end = _span(groups[0])[0], _span(groups[-1])[1]
        try:
            data = memoryview(store.get_range(shard_key(dataset, shard), first, end - first))
        except TornObject as error:
            raise _disagrees(store, dataset, shard, groups[0], error) from error
        found += [_cut(store, dataset, shard, group, data, first) for group in groups]
    return found


def _together(placed: Sequence[tuple[int, IndexedGroup]]) -> Iterator[tuple[int, list[IndexedGroup]]]:
    """The groups in runs that lie one after the other, each small enough to be in memory as a whole."""
    run: list[IndexedGroup] = []
    for place, (shard, group) in enumerate(placed):
        run.append(group)
        following = placed[place + 1] if place + 1 < len(placed) else None
        if (
            following is None
            or following[0] != shard
            or not 0 <= _span(following[1])[0] - _span(group)[1] <= _MAX_GAP
            or _span(following[1])[1] - _span(run[0])[0] > _MAX_RANGE
        ):
            yield shard, run
            run = []


def _span(group: IndexedGroup) -> tuple[int, int]:
    """Where the group begins, with the header of its first member, and ends."""
    spans = (*group.image_spans, group.json_span)
    return min(offset for offset, _ in spans) - BLOCKSIZE, max(sum(span) for span in spans)


def _cut(store: Store, dataset: str, shard: int, group: IndexedGroup, data: memoryview, first: int) -> Group:
    """The group from what was read of its tar, from byte `first` on."""
    spans = (*group.image_spans, group.json_span)
    try:
        for name, (offset, length) in zip(member_names(group.caption_id, len(spans) - 1), spans, strict=True):
            check_header(bytes(data[offset - BLOCKSIZE - first : offset - first]), name, length)
        *encoded, content = (bytes(data[offset - first :][:length]) for offset, length in spans)
        info = parse_group_json(content, group.caption_id)
    except TornObject as error:
        raise _disagrees(store, dataset, shard, group, error) from error
    caption = info.pop("caption")
    del info["caption_id"]
    return Group(group.caption_id, caption, tuple(encoded), info)


def _disagrees(store: Store, dataset: str, shard: int, group: IndexedGroup, error: TornObject) -> TornObject:
    key = shard_key(dataset, shard)
    return TornObject(
        f"{key} in {store.url} is not what its index says (caption {group.caption_id}): {error}; "
        f"`stablerep reconcile {dataset} --verify` finds such shards and has them made again"
    )


def _write_index(store: Store, dataset: str, shard: int, index: ShardIndex) -> None:
    store.put(index_key(dataset, shard), index.model_dump_json().encode())
