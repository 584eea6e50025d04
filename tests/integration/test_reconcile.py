"""The queue rebuilt from the store, on real servers that really lose their data; nothing missing, none twice."""

import threading

import pytest
import redis

from stablerep.errors import Unavailable
from stablerep.jobs.control import cancel_job, pause_job, record_dead
from stablerep.jobs.job import CaptionSource, Counts, JobSpec, JobState
from stablerep.jobs.planning import create_job, plan
from stablerep.jobs.queue import Queue
from stablerep.jobs.recipe import load_recipe
from stablerep.jobs.rebuild import ensure_queue
from stablerep.storage import Group, build_tar, commit_shard, open_store, read_captions

NEVER = threading.Event()
pytestmark = pytest.mark.parametrize("redis_kind", ["valkey", "redis"])


@pytest.fixture
def queue(redis_server):
    queue = Queue(redis_server.url, retry_seconds=0)
    yield queue
    queue.close()


@pytest.fixture
def raw(redis_server):
    client = redis.Redis.from_url(redis_server.url, decode_responses=True)
    yield client
    client.close()


def submit(store, queue, name, captions=10, per_shard=2, priority=0, stop=NEVER):
    key = f"sources/{name}.txt"
    store.put(key, "".join(f"{name} {number}\n" for number in range(captions)).encode())
    spec = JobSpec(name, load_recipe("tiny"), CaptionSource(uri=key), per_shard, priority=priority)
    create_job(store, queue, spec)
    plan(store, queue, name, stop)


def make(store, lease, images=3):
    """Commits a shard as a worker does; the caption after the first is skipped in every third shard."""
    groups = []
    for position, caption in enumerate(read_captions(store, lease.dataset, lease.shard)):
        skip = position == 1 and lease.shard % 3 == 0
        encoded = () if skip else (b"jpeg",) * images
        groups.append(Group(caption.id, caption.text, encoded, {"error": "odd"} if skip else {}))
    return commit_shard(store, lease.dataset, lease.shard, build_tar(groups))


def complete(queue, lease, index):
    return queue.complete(lease, groups=len(index.groups), images=index.images, skipped=len(index.skipped))


def work(store, queue, most=10**9):
    """Makes and completes up to so many shards; returns which, in order."""
    done = []
    while len(done) < most and (lease := queue.lease("w", 60)) is not None:
        complete(queue, lease, make(store, lease))
        done.append((lease.dataset, lease.shard))
    return done


def test_every_job_is_what_it_was_after_redis_lost_everything(store_url, queue, raw):
    store = open_store(store_url)
    assert ensure_queue(store, queue)
    submit(store, queue, "running", 20, priority=3)
    before = work(store, queue, 4)
    assert {name for name, _ in before} == {"running"}
    submit(store, queue, "finished", 4, priority=9)
    work(store, queue, 2)
    status = {name: queue.status(name) for name in ("running", "finished")}
    raw.flushall()
    assert queue.lease("w", 60) is None
    assert ensure_queue(store, queue)
    for name, was in status.items():
        now = queue.status(name)
        assert (now.state, now.priority, now.counts, now.planned_all) == (
            was.state,
            was.priority,
            was.counts,
            was.planned_all,
        )
    assert len(work(store, queue)) == 6
