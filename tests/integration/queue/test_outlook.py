"""Where a job stands and when it ends, against the order and the times in which a real queue serves."""

import random
import time
from datetime import UTC, datetime
from typing import Any

import pytest
import redis

from stablerep.jobs.outlook import outlook
from stablerep.queue.client import Queue
from stablerep.queue.states import JobState
from stablerep.queue.stats import JobBacklog, QueueStats, read_stats
from tests.queueing import LONG, finish

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def add(queue: Queue, dataset: str, shards: int, *, priority: int = 0, shard_images: int = 1) -> None:
    queue.add_job(dataset, priority=priority, shard_images=shard_images)
    queue.set_planned(dataset, shards)
    queue.finish_planning(dataset)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("redis_kind", ["valkey", "redis"])
def test_the_shards_ahead_are_those_that_are_leased_before(redis_url: str, seed: int) -> None:
    """At every moment of a random backlog; what the stream has been fed already may differ by its length."""
    chance = random.Random(seed)
    queue = Queue(redis_url, waiting=1)
    queue.begin_epoch()
    names = [f"job{number}" for number in range(6)]
    for name in names:
        add(queue, name, chance.randint(1, 12), priority=chance.choice([0, 0, 3, 9]))
    predicted: list[dict[str, int]] = []
    served: list[str] = []
    while True:
        stats = queue.stats()
        found = {name: outlook(stats, name, NOW) for name in names}
        predicted.append({name: each.shards_ahead for name, each in found.items() if each is not None})
        lease = queue.lease("w", LONG)
        if lease is None:
            break
        served.append(lease.dataset)
        finish(queue, lease)
    assert predicted[-1] == {}
    for moment, ahead in enumerate(predicted[:-1]):
        for name, shards in ahead.items():
            until = served[moment:].index(name)
            assert abs(shards - until) <= 1, (moment, name, shards, served[moment:])
    queue.close()


def test_the_end_is_when_the_last_shard_is_done_at_a_steady_pace(redis_url: str) -> None:
    """The order of shards is the real queue's; a clock of its own gives each image the same time."""
    queue = Queue(redis_url, waiting=1)
    queue.begin_epoch()
    sizes = {"small": (3, 4, 0), "equal": (9, 10, 0), "large": (20, 2, 0), "first": (5, 6, 7)}
    for name, (shards, images, priority) in sizes.items():
        add(queue, name, shards, priority=priority, shard_images=images)
    stats = queue.stats()
    steady = QueueStats(**{**vars(stats), "images_per_second": 1.0})
    ends = {name: outlook(steady, name, NOW) for name in sizes}
    clock, ended = 0.0, {}
    while lease := queue.lease("w", LONG):
        clock += sizes[lease.dataset][1]
        ended[lease.dataset] = clock
        finish(queue, lease)
    for name, found in ends.items():
        assert found is not None
        assert found.end is not None
        # Off by a round of the others at most.
        assert (found.end - NOW).total_seconds() == pytest.approx(ended[name], abs=4 + 10 + 2), name
    queue.close()


def test_a_job_that_has_begun_has_no_start_and_one_that_is_planned_no_end() -> None:
    def of(**changes: Any) -> tuple[bool, bool]:
        job = JobBacklog(
            "a", **{"state": JobState.RUNNING, "waiting": 5, "leased": 0, "done": 0, "dead": 0, **changes}
        )
        found = outlook(_stats(job), "a", NOW)
        assert found is not None
        return found.start is not None, found.end is not None

    assert of() == (True, True)
    assert of(leased=1) == (False, True)
    assert of(done=1) == (False, True)
    assert of(state=JobState.PLANNING, planned_all=False) == (True, False)
    over = JobBacklog("a", JobState.RUNNING, waiting=0, leased=0, done=5, dead=0)
    paused = JobBacklog("a", JobState.PAUSED, waiting=5, leased=0, done=0, dead=0)
    assert (
        outlook(_stats(over), "a", NOW)
        is outlook(_stats(paused), "a", NOW)
        is outlook(_stats(over), "b", NOW)
        is None
    )


def test_the_pace_is_that_of_late_and_idle_time_is_none_of_it(queue: Queue, redis_url: str) -> None:
    raw = redis.Redis.from_url(redis_url, decode_responses=True)
    assert queue.stats().images_per_second is None
    add(queue, "a", 40)
    began = time.monotonic()
    for _ in range(20):
        lease = queue.lease("w", LONG)
        assert lease is not None
        time.sleep(0.02)
        finish(queue, lease)  # 8 images
    real = 19 * 8 / (time.monotonic() - began)
    pace = queue.stats().images_per_second
    assert pace == pytest.approx(real, rel=0.25)
    while lease := queue.lease("w", LONG):
        finish(queue, lease)
    assert raw.hget("sr:stats", "pace_at") is None, "an idle worker stops the clock"
    add(queue, "b", 2)
    time.sleep(0.5)
    while lease := queue.lease("w", LONG):
        finish(queue, lease)
    after = queue.stats().images_per_second
    assert after is None or after > real / 2
    raw.close()


def test_a_pace_without_a_shard_for_long_is_none() -> None:
    stats = '{"pace_at":1000,"pace_images":80,"pace_ms":4000}'
    text = '{"jobs":{},"ended":{},"dead":0,"workers":{},"oldest_lease":0,"now":%d,"stats":' + stats + "}"
    assert read_stats(text % 2000).images_per_second == 20
    assert read_stats(text % 2_000_000).images_per_second is None


def _stats(*jobs: JobBacklog) -> QueueStats:
    return QueueStats(jobs, {}, 0, 0.0, 0, 0, 0, 0, 0, 0, images_per_second=1.0)
