"""What the queue says of itself is what was done to it, on both servers, and costs little with many jobs."""

import time

import pytest
import redis

from stablerep.queue.client import MAX_ERRORS, FailOutcome, Queue
from stablerep.queue.states import JobState
from stablerep.queue.stats import SEEN_SECONDS, JobBacklog, read_stats
from stablerep.testing.servers import RedisServer
from tests.queueing import add

pytestmark = pytest.mark.parametrize("redis_kind", ["valkey", "redis"])


def test_an_empty_queue_measures_nothing(queue: Queue) -> None:
    stats = queue.stats()
    assert (stats.depth, stats.jobs, stats.dead_shards) == (0, (), 0)
    assert stats.job_states == dict.fromkeys(JobState, 0)
    assert (stats.oldest_lease_seconds, stats.busy_workers, stats.idle_workers) == (0, 0, 0)


def test_depth_is_what_waits_and_is_in_flight_of_jobs_that_workers_may_take(queue: Queue) -> None:
    add(queue, "shoes", 10)
    for worker in ("a", "b"):
        assert queue.lease(worker, 60)
    done = queue.lease("c", 60)
    assert done
    queue.complete(done, groups=1, images=2, skipped=0)
    queue.add_job("bags")  # still being planned: its shards are handed out already
    queue.set_planned("bags", 5)
    add(queue, "paused", 7)
    queue.set_state("paused", JobState.PAUSED)
    add(queue, "over", 3)
    queue.set_state("over", JobState.CANCELLED)
    stats = queue.stats()
    assert stats.depth == (10 - 1) + 5
    assert stats.jobs[0] == JobBacklog("shoes", JobState.RUNNING, waiting=7, leased=2, done=1, dead=0)
    assert [job.dataset for job in stats.jobs] == ["shoes", "paused", "bags"]
    counted = {state: count for state, count in stats.job_states.items() if count}
    assert counted == {"RUNNING": 1, "PLANNING": 1, "PAUSED": 1, "CANCELLED": 1}
    assert (stats.busy_workers, stats.idle_workers) == (2, 1)
    assert stats.planned == 10 + 5 + 7 + 3


def test_errors_lost_leases_and_dead_shards_are_counted_apart(queue: Queue) -> None:
    add(queue, "shoes", 2)
    for _ in range(MAX_ERRORS):
        lease = queue.lease("a", 60)
        while lease and lease.shard != 0:
            lease = queue.lease("b", 60)
        assert lease
        outcome = queue.fail(lease, "broken")
    assert outcome is FailOutcome.DEAD
    time.sleep(0.05)
    assert queue.lease("c", 0.02)  # the other worker's lease on shard 1 has run out
    stats = queue.stats()
    assert (stats.errors, stats.leases_lost, stats.dead_lettered, stats.dead_shards) == (
        MAX_ERRORS,
        1,
        1,
        1,
    )
    assert stats.depth == 1


def test_dead_shards_of_jobs_that_are_over_still_count(queue: Queue) -> None:
    add(queue, "shoes", 1)
    for _ in range(MAX_ERRORS):
        lease = queue.lease("a", 60)
        assert lease
        queue.fail(lease, "broken")
    assert queue.state("shoes") is JobState.FAILED
    assert queue.stats().dead_shards == 1


def test_the_oldest_lease_ages_though_it_is_renewed(queue: Queue) -> None:
    add(queue, "shoes", 2)
    lease = queue.lease("a", 60)
    assert lease
    first = queue.stats().oldest_lease_seconds
    time.sleep(0.3)
    queue.renew(lease)
    assert 0.3 <= queue.stats().oldest_lease_seconds - first < 5
    queue.release(lease)
    assert queue.stats().oldest_lease_seconds == 0


def test_a_worker_silent_for_long_is_not_counted(queue: Queue) -> None:
    text = '{"jobs":{},"ended":{},"dead":0,"workers":[[1,%d],[0,%d],[0,5]],"stats":{},"oldest_lease":0}'
    silent = int(SEEN_SECONDS * 1000) + 1
    stats = read_stats(text % (silent, silent))
    assert (stats.busy_workers, stats.idle_workers) == (0, 1)


def test_measuring_changes_nothing_and_is_quick_with_a_thousand_jobs(
    queue: Queue, redis_server: RedisServer
) -> None:
    raw = redis.Redis.from_url(redis_server.url)
    for number in range(1000):
        add(queue, f"job-{number}", 1000)
    lease = queue.lease("a", 60)
    assert lease
    before = {key: raw.dump(key) for key in raw.scan_iter() if key != b"sr:ready"}
    raw.config_resetstat()
    stats = queue.stats()
    assert stats.depth == 1000 * 1000
    assert stats.job_states[JobState.RUNNING] == 1000
    stats = raw.info("commandstats")
    microseconds = sum(stats[name]["usec"] for name in ("cmdstat_evalsha",) if name in stats)
    assert 0 < microseconds < 100_000  # 5 to 10 ms here; the server does nothing else meanwhile
    assert {key: raw.dump(key) for key in raw.scan_iter() if key != b"sr:ready"} == before
