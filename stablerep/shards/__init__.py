"""Groups in shard tars, their indexes, captions files, `dataset.json`, and the names of all of them."""

from stablerep.shards.captions_file import read_captions, write_captions
from stablerep.shards.find import find_group
from stablerep.shards.group import Group, skipped_group
from stablerep.shards.info import DatasetInfo, read_dataset, recipe_of, write_dataset
from stablerep.shards.shards import (
    commit_shard,
    read_group,
    read_groups,
    read_images,
    read_index,
    rebuild_index,
)
from stablerep.shards.tar import IndexedGroup, ShardIndex, SkippedCaption, build_tar, index_tar

__all__ = [
    "DatasetInfo",
    "Group",
    "IndexedGroup",
    "ShardIndex",
    "SkippedCaption",
    "build_tar",
    "commit_shard",
    "find_group",
    "index_tar",
    "read_captions",
    "read_dataset",
    "read_group",
    "read_groups",
    "read_images",
    "read_index",
    "rebuild_index",
    "recipe_of",
    "skipped_group",
    "write_captions",
    "write_dataset",
]
