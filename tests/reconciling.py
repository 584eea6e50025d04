"""What tests of reconciliation share: jobs, quick workers that commit real tars, servers that lose all."""

import shutil
import threading
from functools import partial
from pathlib import Path

import redis

from services.gateway.reconcile_rpc import repair_each
from stablerep.client import Job
from stablerep.config.recipe import load_recipe
from stablerep.jobs.job import CaptionSource, JobSpec
from stablerep.jobs.planning.create import create_job
from stablerep.jobs.planning.plan import StopToken, plan
from stablerep.jobs.recovery.repair import Depth, ReconcileResult, repair
from stablerep.queue.client import Queue
from stablerep.queue.leases import Lease
from stablerep.queue.states import Counts
from stablerep.shards import Group, ShardIndex, build_tar, commit_shard, read_captions, read_index
from stablerep.shards.layout import index_prefix, shard_of
from stablerep.storage import Store
from stablerep.testing.servers import RedisServer

NEVER = threading.Event()


def submit(
    store: Store,
    queue: Queue,
    name: str,
    captions: int = 10,
    *,
    per_shard: int = 2,
    priority: int = 0,
    stop: StopToken = NEVER,
) -> None:
    """A job whose captions are "<name> 0", "<name> 1", ..., created and planned, up to where `stop` says."""
    key = f"sources/{name}.txt"
    store.put(key, "".join(f"{name} {number}\n" for number in range(captions)).encode())
    spec = JobSpec(name, load_recipe("tiny"), CaptionSource(uri=key), per_shard, priority=priority)
    create_job(store, queue, spec)
    plan(store, queue, name, stop)


def rebuilt(store: Store, queue: Queue) -> bool:
    """Restores the queue if need be, and counts what the finished shards hold."""
    repair(store, queue)
    if queue.epoch() is None:
        return False
    count_totals(store, queue)
    return True


def count_totals(store: Store, queue: Queue) -> int:
    """Counts what the finished shards of restored jobs hold; returns of how many jobs."""
    return sum(
        repair(store, queue, Depth.SHARDS, dataset) is not None for dataset in queue.run_script("uncounted")
    )


def reconcile_job(store: Store, queue: Queue, dataset: str, *, verify: bool = False) -> ReconcileResult:
    found = repair(store, queue, Depth.BYTES if verify else Depth.CONTENT, dataset)
    assert found is not None
    return found


def reconcile_all(store: Store, queue: Queue) -> list[ReconcileResult]:
    return list(repair_each(store, queue, partial(reconcile_job, store, queue), threading.Event()))


def make(store: Store, dataset: str, shard: int) -> ShardIndex:
    """Commits a shard as a worker does: two images a caption, and every seventh caption skipped."""
    groups = []
    for caption in read_captions(store, dataset, shard):
        skip = caption.id % 7 == 3
        encoded = () if skip else (b"image of " + caption.text.encode(), b"second")
        groups.append(Group(caption.id, caption.text, encoded, {"error": "odd"} if skip else {}))
    return commit_shard(store, dataset, shard, build_tar(groups), worker_ms=1000 + shard)


def complete(queue: Queue, lease: Lease, index: ShardIndex) -> bool:
    return queue.complete(
        lease,
        groups=len(index.groups),
        images=index.images,
        skipped=len(index.skipped),
        seconds=index.worker_ms / 1000,
    )


def work(store: Store, queue: Queue, most: int = 10**9) -> list[tuple[str, int]]:
    """Makes and completes up to so many shards; returns which, in order."""
    made: list[tuple[str, int]] = []
    while len(made) < most and (lease := queue.lease("w", 60)) is not None:
        complete(queue, lease, make(store, lease.dataset, lease.shard))
        made.append((lease.dataset, lease.shard))
    return made


def bury(queue: Queue, dataset: str, shard: int, error: str) -> None:
    """Fails a shard until it is dead; the other leases it takes to get at it are handed back."""
    while shard not in queue.dead(dataset):
        lease = queue.lease("w", 60)
        assert lease is not None
        if lease.shard == shard:
            queue.fail(lease, error)
        else:
            queue.release(lease)


def stored_counts(store: Store, dataset: str) -> tuple[int, int, int, int]:
    """Done shards, groups, images and skipped captions, counted one by one from the index objects."""
    shards = groups = images = skipped = 0
    for info in store.list(index_prefix(dataset)):
        index = read_index(store, dataset, shard_of(info.key))
        assert index is not None
        shards, groups, images = shards + 1, groups + len(index.groups), images + index.images
        skipped += len(index.skipped)
    return shards, groups, images, skipped


def is_exact(store: Store, counts: Counts, dataset: str) -> bool:
    """Whether the queue counts what is in the store."""
    return (counts.done, counts.groups, counts.images, counts.skipped) == stored_counts(store, dataset)


def is_exact_job(store: Store, job: Job) -> bool:
    """The same of what the gateway says."""
    counts = job.counts
    return (counts.done, counts.groups, counts.images, counts.skipped) == stored_counts(store, job.dataset)


def caption_ids(store: Store, dataset: str) -> list[int]:
    """Every caption of which there is a group or a reason why not, in order of shards."""
    ids: list[int] = []
    for info in store.list(index_prefix(dataset)):
        index = read_index(store, dataset, shard_of(info.key))
        assert index is not None
        shard = [group.caption_id for group in index.groups] + [skip.caption_id for skip in index.skipped]
        ids += sorted(shard)
    return ids


def lose_everything(server: RedisServer) -> None:
    """Kills the server, deletes its files, starts it on the same port."""
    client = redis.Redis.from_url(server.url, decode_responses=True)
    folder = Path(str(client.config_get("dir")["dir"]))
    client.close()
    server.kill()
    for path in folder.iterdir():
        if path.suffix != ".log":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    server.start()


class StopAfter:
    """Says stop at the n-th time it is asked."""

    def __init__(self, times: int) -> None:
        self.times = times

    def is_set(self) -> bool:
        self.times -= 1
        return self.times < 0
