"""Shards in a store: committing one so that tar and index always agree, and reading its groups back."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
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
    "read_images",
    "read_index",
    "rebuild_index",
]


_MAX_GAP = 64 << 10
"""Bytes between two groups, or what is wanted of them, that take less time to read than another request."""
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
    parts = [_Part(shard, group, tuple(range(len(group.image_spans) + 1))) for shard, group in placed]
    return [_group_of(store, dataset, part, contents) for part, contents in _read(store, dataset, parts)]


def read_images(
    store: Store,
    dataset: str,
    placed: Sequence[tuple[int, IndexedGroup]],
    numbers: Sequence[Sequence[int]],
) -> list[list[bytes]]:
    """Of each group its encoded images of these numbers; b"" for one that it has not.

    No more of a group is read than from the first to the last of them; otherwise as `read_groups`.
    """
    found = [[b""] * len(wanted) for wanted in numbers]
    there = [
        [at for at, number in enumerate(wanted) if 0 <= number < len(group.image_spans)]
        for (_, group), wanted in zip(placed, numbers, strict=True)
    ]
    asked = [place for place, images in enumerate(there) if images]
    parts = [_Part(*placed[place], tuple(numbers[place][at] for at in there[place])) for place in asked]
    for place, (_, contents) in zip(asked, _read(store, dataset, parts), strict=True):
        for at, content in zip(there[place], contents, strict=True):
            found[place][at] = content
    return found


@dataclass(frozen=True)
class _Part:
    """Members of a group: images by their numbers, and its JSON as the number after the last one's."""

    shard: int
    group: IndexedGroup
    members: tuple[int, ...]

    @cached_property
    def spans(self) -> list[tuple[int, int]]:
        every = (*self.group.image_spans, self.group.json_span)
        return [every[member] for member in self.members]

    @property
    def first(self) -> int:
        """Where it begins, with the header of its first member."""
        return min(offset for offset, _ in self.spans) - BLOCKSIZE

    @property
    def end(self) -> int:
        return max(map(sum, self.spans))


def _read(store: Store, dataset: str, parts: Sequence[_Part]) -> Iterator[tuple[_Part, list[bytes]]]:
    for run in _together(parts):
        shard, first = run[0].shard, run[0].first
        try:
            data = memoryview(store.get_range(shard_key(dataset, shard), first, run[-1].end - first))
        except TornObject as error:
            raise _disagrees(store, dataset, run[0], error) from error
        for part in run:
            yield part, _cut(store, dataset, part, data, first)


def _together(parts: Sequence[_Part]) -> Iterator[list[_Part]]:
    """The parts in runs that lie one after the other, each small enough to be in memory as a whole."""
    run: list[_Part] = []
    for part in parts:
        if run and (
            part.shard != run[0].shard
            or not 0 <= part.first - run[-1].end <= _MAX_GAP
            or part.end - run[0].first > _MAX_RANGE
        ):
            yield run
            run = []
        run.append(part)
    if run:
        yield run


def _cut(store: Store, dataset: str, part: _Part, data: memoryview, first: int) -> list[bytes]:
    """The members from what was read of their tar, from byte `first` on."""
    names = member_names(part.group.caption_id, len(part.group.image_spans))
    contents = []
    for member, (offset, length) in zip(part.members, part.spans, strict=True):
        try:
            check_header(bytes(data[offset - BLOCKSIZE - first : offset - first]), names[member], length)
        except TornObject as error:
            raise _disagrees(store, dataset, part, error) from error
        contents.append(bytes(data[offset - first :][:length]))
    return contents


def _group_of(store: Store, dataset: str, part: _Part, contents: list[bytes]) -> Group:
    *encoded, content = contents
    try:
        info = parse_group_json(content, part.group.caption_id)
    except TornObject as error:
        raise _disagrees(store, dataset, part, error) from error
    caption = info.pop("caption")
    del info["caption_id"]
    return Group(part.group.caption_id, caption, tuple(encoded), info)


def _disagrees(store: Store, dataset: str, part: _Part, error: TornObject) -> TornObject:
    key = shard_key(dataset, part.shard)
    return TornObject(
        f"{key} in {store.url} is not what its index says (caption {part.group.caption_id}): {error}; "
        f"`stablerep reconcile {dataset} --verify` finds such shards and has them made again"
    )


def _write_index(store: Store, dataset: str, shard: int, index: ShardIndex) -> None:
    store.put(index_key(dataset, shard), index.model_dump_json().encode())
