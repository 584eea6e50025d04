"""Finds the group of a caption in a dataset without listing its shards, however many there are."""

from stablerep.errors import InvalidInput, NotFound
from stablerep.shards.captions_file import read_captions
from stablerep.shards.info import planned_shards
from stablerep.shards.layout import index_prefix, shard_of
from stablerep.shards.shards import read_index
from stablerep.shards.tar import IndexedGroup, ShardIndex
from stablerep.storage.interface import Store

_GUESSES = 6  # then halves: ids far from even take few reads too


def find_group(store: Store, dataset: str, caption_id: int) -> tuple[int, IndexedGroup]:
    """The shard that holds a caption's images, and where they lie in it.

    Caption ids ascend through the shards, evenly but for skipped lines, so that a guess by proportion needs
    about three reads where halving needs twenty.

    Raises:
        NotFound: no finished shard has a group of that caption.
        InvalidInput: the caption is there, but could not be generated.
    """
    try:
        shards = list(range(planned_shards(store, dataset)))
    except NotFound:
        shards = [shard_of(entry.key) for entry in store.list(index_prefix(dataset))]
    low, high = 0, len(shards) - 1
    low_id, high_id, guesses = 0, -1, 0
    while low <= high:
        middle = (low + high) // 2
        if high_id < 0:
            middle = high  # the last shard's ids say how dense they are
        elif high_id > low_id and guesses < _GUESSES:
            middle = low + (high - low) * (caption_id - low_id) // (high_id - low_id)
            middle = min(max(middle, low), high)
        guesses += 1
        index = read_index(store, dataset, shards[middle])
        first, last = _ids(store, dataset, shards[middle], index)
        if first <= caption_id <= last:
            return shards[middle], _in_shard(dataset, shards[middle], index, caption_id)
        if last < caption_id:
            low, low_id = middle + 1, last
        else:
            high, high_id = middle - 1, first
    raise NotFound(f"no finished shard of {dataset} has images of caption {caption_id}")


def _ids(store: Store, dataset: str, shard: int, index: ShardIndex | None) -> tuple[int, int]:
    """The first and the last caption id of a shard; of one that is not finished, as it was planned."""
    if index is None:
        captions = read_captions(store, dataset, shard)
        return captions[0].id, captions[-1].id
    ids = [group.caption_id for group in index.groups] + [skipped.caption_id for skipped in index.skipped]
    return min(ids), max(ids)


def _in_shard(dataset: str, shard: int, index: ShardIndex | None, caption_id: int) -> IndexedGroup:
    for group in () if index is None else index.groups:
        if group.caption_id == caption_id:
            return group
    for skipped in () if index is None else index.skipped:
        if skipped.caption_id == caption_id:
            raise InvalidInput(
                f"caption {caption_id} of {dataset} could not be generated: {skipped.error}",
                field="caption_id",
            )
    unfinished = f": shard {shard}, to which it would belong, is not finished" if index is None else ""
    raise NotFound(f"no finished shard of {dataset} has images of caption {caption_id}{unfinished}")
