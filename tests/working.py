"""A worker without a pipeline for tests: leases shards of the queue and commits one flat image a caption."""

import io
from collections.abc import Callable, Collection

from PIL import Image

from stablerep.queue.client import Lease, Queue
from stablerep.shards import Group, build_tar, commit_shard, read_captions
from stablerep.storage import Store


def make_shard(store: Store, lease: Lease) -> dict[str, int]:
    """Writes the shard's tar and index; what `Queue.complete` is to be told."""
    captions = read_captions(store, lease.dataset, lease.shard)
    groups = [Group(caption.id, caption.text, (_flat_image(caption.id),)) for caption in captions]
    index = commit_shard(store, lease.dataset, lease.shard, build_tar(groups))
    return {"groups": len(index.groups), "images": index.images, "skipped": len(index.skipped)}


def work(
    store: Store,
    queue: Queue,
    *,
    fail: Collection[int] = (),
    error: str = "boom",
    most: int = 10**9,
    on_dead: Callable[[str, int], None] | None = None,
) -> list[int]:
    """Makes shards until none is to be had, or `most` are made; those of `fail` fail whenever they come."""
    made: list[int] = []
    while len(made) < most and (lease := queue.lease("tester", 60)) is not None:
        if lease.shard not in fail:
            queue.complete(lease, **make_shard(store, lease))
            made.append(lease.shard)
        elif queue.fail(lease, error) == "DEAD" and on_dead is not None:
            on_dead(lease.dataset, lease.shard)
    return made


def _flat_image(number: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (number % 256, 99, 1)).save(buffer, "JPEG")
    return buffer.getvalue()
