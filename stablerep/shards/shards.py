"""Shards in a store: committing one so that tar and index always agree, and reading its groups back."""

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
    "read_index",
    "rebuild_index",
]


def commit_shard(store: Store, dataset: str, shard: int, tar: bytes) -> ShardIndex:
    """Writes a shard unless another worker did, then the index of the tar that IS there: the commit marker.

    Any number of callers, with different tars, stopped at any point, are safe: the first tar stays, and
    the index returned and stored is its. Raises TornObject if that tar is damaged.
    """
    index = index_tar(tar)
    if store.put(shard_key(dataset, shard), tar, if_absent=True):
        _write_index(store, dataset, shard, index)
        return index
    return rebuild_index(store, dataset, shard)


def rebuild_index(store: Store, dataset: str, shard: int) -> ShardIndex:
    """Stores the index of a tar that is in the store. Raises NotFound, and TornObject naming the object."""
    key = shard_key(dataset, shard)
    try:
        index = index_tar(store.get(key))
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
    key = shard_key(dataset, shard)
    spans = (*group.image_spans, group.json_span)
    first = min(offset for offset, _ in spans) - BLOCKSIZE
    try:
        data = store.get_range(key, first, max(sum(span) for span in spans) - first)
        for name, (offset, length) in zip(member_names(group.caption_id, len(spans) - 1), spans, strict=True):
            check_header(data[offset - BLOCKSIZE - first : offset - first], name, length)
        *encoded, content = (data[offset - first : offset - first + length] for offset, length in spans)
        info = parse_group_json(content, group.caption_id)
    except TornObject as error:
        raise TornObject(
            f"{key} in {store.url} is not what its index says (caption {group.caption_id}): {error}; "
            f"`stablerep reconcile {dataset} --verify` finds such shards and has them made again"
        ) from error
    caption = info.pop("caption")
    del info["caption_id"]
    return Group(group.caption_id, caption, tuple(encoded), info)


def _write_index(store: Store, dataset: str, shard: int, index: ShardIndex) -> None:
    store.put(index_key(dataset, shard), index.model_dump_json().encode())
