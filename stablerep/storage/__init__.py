"""Object stores (local folder, S3), shard files, their names, and `dataset.json`."""

from stablerep.storage.captions_file import read_captions, write_captions
from stablerep.storage.dataset import DatasetInfo, read_dataset, write_dataset
from stablerep.storage.group import Group, skipped_group
from stablerep.storage.shards import commit_shard, read_group, read_index, rebuild_index
from stablerep.storage.store import ObjectInfo, S3Access, Store, open_store
from stablerep.storage.tar import IndexedGroup, ShardIndex, SkippedCaption, build_tar, index_tar

__all__ = [
    "DatasetInfo",
    "Group",
    "IndexedGroup",
    "ObjectInfo",
    "S3Access",
    "ShardIndex",
    "SkippedCaption",
    "Store",
    "build_tar",
    "commit_shard",
    "index_tar",
    "open_store",
    "read_captions",
    "read_dataset",
    "read_group",
    "read_index",
    "rebuild_index",
    "skipped_group",
    "write_captions",
    "write_dataset",
]
