"""Control of jobs in the queue, on Valkey and Redis: back-off, retries, removal, lists of shards, turns."""

import time
from collections import Counter

import pytest
import redis

from stablerep.errors import NotFound
from stablerep.queue.client import MAX_ERRORS, Queue
from stablerep.queue.leases import FailOutcome, RenewOutcome, ShardFailures, ShardState, ShardStatus
from stablerep.queue.states import JobState
from tests.queueing import LONG, add, drain, finish

pytestmark = pytest.mark.parametrize("redis_kind", ["valkey", "redis"])
MILLION = 1_000_000


@pytest.fixture
def raw(redis_url):
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


def kill_shards(queue, dataset, shards, error="boom"):
    """Fails the shards until they are dead, and finishes all others of the job."""
    while lease := queue.lease("w", LONG):
        if lease.shard in shards:
            queue.fail(lease, error)
        else:
            finish(queue, lease)
    assert set(queue.dead(dataset)) == set(shards)


class TestBackOff:
    def test_a_failed_shard_waits_longer_each_time_while_others_go_on(self, queue, redis_url):
        patient = Queue(redis_url, retry_seconds=0.2)
        add(queue, "a", 3)
        first = patient.lease("w", LONG)
        assert patient.fail(first, "boom") is FailOutcome.RETRY
        others = drain(queue)
        assert len(others) == 2
        assert ("a", first.shard) not in others
        assert queue.counts("a").pending == 1
        time.sleep(0.25)
        again = patient.lease("w", LONG)
        assert again.shard == first.shard
        patient.fail(again, "boom")
        time.sleep(0.4)
        assert patient.lease("w", LONG) is None  # four times as long
        time.sleep(0.5)
        assert patient.lease("w", LONG).shard == first.shard
        patient.close()

    def test_the_default_is_5_then_20_seconds(self, redis_url, queue, raw):
        usual = Queue(redis_url)
        add(queue, "a", 1)
        for seconds in (5, 20):
            usual.fail(usual.lease("w", LONG), "boom")
            ((_, due),) = raw.zrange("sr:delayed", 0, -1, withscores=True)
            assert due / 1000 - time.time() == pytest.approx(seconds, abs=2)
            raw.zadd("sr:delayed", {"0:a": 0})
        usual.close()

    def test_a_shard_that_waits_is_dropped_with_its_job_or_its_completion(self, queue, redis_url, raw):
        patient = Queue(redis_url, retry_seconds=60)
        for name in ("cancelled", "removed", "completed"):
            add(queue, name, 1)
            lease = patient.lease("w", LONG)
            patient.fail(lease, "boom")
        assert raw.zcard("sr:delayed") == 3
        queue.set_state("cancelled", JobState.CANCELLED)
        queue.remove("removed")
        finish(queue, lease)
        assert raw.zrange("sr:delayed", 0, -1) == ["0:cancelled"]
        raw.zadd("sr:delayed", {"0:cancelled": 0})
        assert queue.lease("w", LONG) is None
        assert raw.zcard("sr:delayed") == 0
        patient.close()

    def test_a_shard_whose_wait_ends_during_a_pause_comes_with_the_resumption(self, queue, redis_url):
        patient = Queue(redis_url, retry_seconds=0.05)
        add(queue, "a", 1)
        patient.fail(patient.lease("w", LONG), "boom")
        queue.set_state("a", JobState.PAUSED)
        time.sleep(0.1)
        assert queue.lease("w", LONG) is None
        queue.set_state("a", JobState.RUNNING)
        assert drain(queue) == [("a", 0)]
        patient.close()


class TestRetry:
    def test_dead_shards_named_or_all_run_again_and_may_succeed(self, queue):
        add(queue, "a", 6)
        kill_shards(queue, "a", {1, 3, 4})
        assert queue.state("a") is JobState.FAILED
        assert queue.retry("a", [3, 5, 77]) is JobState.RUNNING
        status = queue.status("a")
        assert (status.counts.dead, status.counts.pending, status.end_time) == (2, 1, None)
        assert queue.failures("a").get(3) is None
        assert drain(queue) == [("a", 3)]
        assert queue.state("a") is JobState.FAILED
        assert queue.retry("a") is JobState.RUNNING
        assert sorted(drain(queue)) == [("a", 1), ("a", 4)]
        assert queue.state("a") is JobState.SUCCEEDED
        assert queue.counts("a").done == 6

    def test_a_retried_shard_has_all_its_attempts_again(self, queue):
        add(queue, "a", 1)
        kill_shards(queue, "a", {0})
        queue.retry("a")
        outcomes = [queue.fail(queue.lease("w", LONG), "again") for _ in range(MAX_ERRORS)]
        assert outcomes == [FailOutcome.RETRY, FailOutcome.RETRY, FailOutcome.DEAD]
        assert queue.dead("a") == {0: "again"}

    def test_ten_thousand_shards_are_retried_in_one_step(self, queue, raw):
        add(queue, "a", 20_000)
        raw.hset("sr:dead:a", mapping=dict.fromkeys(range(20_000), "boom"))
        queue.retry("a", range(10_000))
        assert queue.counts("a").dead == 10_000

    @pytest.mark.parametrize("state", [JobState.CANCELLED, JobState.FAILED])
    def test_a_job_that_ended_for_another_reason_stays_as_it_is(self, queue, state):
        add(queue, "a", 2)
        for _ in range(MAX_ERRORS):
            lease = queue.lease("w", LONG)
            while lease.shard != 0:
                finish(queue, lease)
                lease = queue.lease("w", LONG)
            queue.fail(lease, "boom")
        queue.add_job("b")
        queue.set_planned("b", 1)
        queue.set_state("b", state, "the source changed" if state is JobState.FAILED else "")
        assert queue.retry("b") is state
        assert queue.retry("a") is JobState.RUNNING

    def test_a_paused_job_stays_paused(self, queue):
        queue.add_job("a")
        queue.set_planned("a", 2)
        for _ in range(MAX_ERRORS):
            queue.fail(queue.lease("w", LONG), "boom")
        while not queue.dead("a"):
            queue.fail(queue.lease("w", LONG), "boom")
        queue.set_state("a", JobState.PAUSED)
        assert queue.retry("a") is JobState.PAUSED
        assert queue.lease("w", LONG) is None


class TestRemove:
    def test_nothing_of_the_job_is_left_and_others_are_untouched(self, queue, raw):
        add(queue, "a", 50)
        add(queue, "b", 3)
        held = [queue.lease("w", LONG) for _ in range(6)]
        queue.fail(held[0], "boom")
        assert queue.remove("a")
        assert not queue.remove("a")
        for lease in held[1:]:
            assert queue.renew(lease) is (RenewOutcome.LOST if lease.dataset == "a" else RenewOutcome.HELD)
            if lease.dataset == "b":
                queue.release(lease)
        assert sorted(drain(queue)) == [("b", 0), ("b", 1), ("b", 2)]
        assert not raw.keys("sr:*:a")
        assert queue.jobs() == ["b"]
        with pytest.raises(NotFound):
            queue.status("a")
        assert raw.xlen("sr:ready") == 0

    def test_a_new_job_of_the_name_owes_nothing_to_the_old_one(self, queue):
        add(queue, "a", 50)
        late = queue.lease("slow", LONG)
        queue.remove("a")
        add(queue, "a", 2)
        assert not finish(queue, late)  # what it made belonged to the old one
        assert queue.counts("a").done == 0
        assert sorted(drain(queue)) == [("a", 0), ("a", 1)]  # unread entries of the old one are dropped
        assert queue.state("a") is JobState.SUCCEEDED


class TestShards:
    def test_each_shard_with_its_state_worker_and_failures(self, queue):
        add(queue, "a", 6)
        leases = {(lease := queue.lease(f"w{n}", LONG)).shard: lease for n in range(4)}
        finish(queue, leases[0])
        queue.fail(leases[1], "first")
        queue.release(leases[2])
        held = leases[3]
        while not queue.dead("a"):
            lease = queue.lease("w", LONG)
            if lease.shard == 5:
                queue.fail(lease, "dead")
            else:
                finish(queue, lease)
        told = {shard.number: shard for shard in queue.shards("a", 0, 100)}
        assert told[3] == ShardStatus(3, ShardState.LEASED, worker=held.worker)
        assert told[5] == ShardStatus(5, ShardState.DEAD, errors=MAX_ERRORS, error="dead")
        assert told[0] == ShardStatus(0, ShardState.DONE)

    def test_the_last_error_of_a_shard_to_be_retried_is_kept_until_it_is_done(self, queue):
        add(queue, "a", 1)
        queue.fail(queue.lease("w", LONG), "out of memory")
        assert queue.failures("a") == {0: ShardFailures(errors=1, error="out of memory")}
        assert queue.shards("a", 0, 1) == [
            ShardStatus(0, ShardState.PENDING, errors=1, error="out of memory")
        ]
        drain(queue)
        assert queue.shards("a", 0, 1) == [ShardStatus(0, ShardState.DONE)]

    def test_pages_of_one_state_join_without_gap_or_double(self, queue):
        add(queue, "a", 40)
        for _ in range(25):
            lease = queue.lease("w", LONG)
            if lease.shard % 2:
                finish(queue, lease)
        for state in (*ShardState, None):
            whole = queue.shards("a", 0, 1000, state)
            pages, start = [], 0
            while page := queue.shards("a", start, 7, state):
                pages += page
                start = page[-1].number + 1
            assert pages == whole
        numbers = Counter(shard.number for state in ShardState for shard in queue.shards("a", 0, 1000, state))
        assert numbers == Counter(range(40))

    def test_a_million_shards_are_looked_through_in_a_moment(self, queue, raw):
        add(queue, "a", MILLION)
        bits = bytearray(b"\xff" * (MILLION // 8))
        bits[100_000] = 0xFB  # shard 800,005 is not done
        bits[124_000:] = bytes(1000)  # nor are the last 8,000
        raw.execute_command("SET", "sr:done:a", bytes(bits))
        raw.hset("sr:dead:a", mapping=dict.fromkeys(range(992_000, 999_000), "boom"))
        held = [queue.lease(f"w{n}", LONG).shard for n in range(64)]
        assert held[0] == 800_005
        raw.config_resetstat()
        began = time.monotonic()
        pending = queue.shards("a", 0, 5, ShardState.PENDING)
        assert [shard.number for shard in pending] == [999_063 + n for n in range(5)]
        assert [s.number for s in queue.shards("a", 0, 100, ShardState.LEASED)] == sorted(held)
        assert [s.number for s in queue.shards("a", 998_990, 100, ShardState.DEAD)] == list(
            range(998_990, 999_000)
        )
        assert [s.number for s in queue.shards("a", 800_000, 10, ShardState.DONE)] == [
            *range(800_000, 800_005),
            *range(800_006, 800_011),
        ]
        assert time.monotonic() - began < 2
        assert raw.info("commandstats")["cmdstat_evalsha"]["calls"] <= 8

    def test_very_many_dead_shards_hold_the_server_only_for_moments(self, queue, raw):
        shards = 200_000
        add(queue, "a", shards)
        for start in range(0, shards, 50_000):
            raw.hset("sr:dead:a", mapping=dict.fromkeys(range(start, start + 50_000), "x"))
        raw.config_set("slowlog-log-slower-than", 400_000)
        raw.slowlog_reset()
        assert queue.shards("a", 0, 1, ShardState.PENDING) == []
        page = queue.shards("a", 100_000, 1000, ShardState.DEAD)
        assert [shard.number for shard in page] == list(range(100_000, 101_000))
        assert [str(entry["command"])[:40] for entry in raw.slowlog_get()] == []

    def test_an_unknown_job_is_not_found(self, queue):
        with pytest.raises(NotFound):
            queue.shards("nope", 0, 10)


class TestFairness:
    def test_small_jobs_are_not_held_up_by_a_very_large_one(self, queue, raw):
        add(queue, "large", 500_000)
        for _ in range(20):
            finish(queue, queue.lease("w", LONG))
        small = [f"small-{number}" for number in range(10)]
        for name in small:
            add(queue, name, 5)
        served = Counter()
        for _ in range(8 + 11 * 5):  # what the stream held already, then turns of all eleven
            lease = queue.lease("w", LONG)
            finish(queue, lease)
            served[lease.dataset] += 1
            assert raw.xlen("sr:ready") <= 8
        assert {queue.state(name) for name in small} == {JobState.SUCCEEDED}
        assert served["large"] <= 8 + 6

    def test_a_higher_priority_waits_at_most_for_what_the_stream_holds(self, queue):
        for name in ("a", "b", "c"):
            add(queue, name, 1000, priority=3)
        for _ in range(10):
            finish(queue, queue.lease("w", LONG))
        add(queue, "urgent", 40, priority=4)
        order = [queue.lease("w", LONG).dataset for _ in range(48)]
        assert order[7:47] == ["urgent"] * 40

    def test_equal_jobs_are_served_in_turn(self, queue):
        for name in ("a", "b", "c"):
            queue.add_job(name)
        for name in ("a", "b", "c"):
            queue.set_planned(name, 100)
        taken = [queue.lease("w", LONG).dataset for _ in range(120)]
        assert all(len(set(taken[n : n + 3])) == 3 for n in range(0, 120, 3))


def test_redis_memory_of_a_million_shards_stays_far_below_200_bytes_a_shard(redis_url, queue, raw, capsys):
    patient = Queue(redis_url, retry_seconds=600)
    add(queue, "before", 1)
    queue.fail(queue.lease("w", LONG), "so that every script is loaded")
    drain(queue)
    empty = raw.info("memory")["used_memory"]
    add(queue, "a", MILLION)
    assert sum(raw.memory_usage(key, samples=0) for key in raw.scan_iter("sr:*:a")) < 2_000
    for number in range(5_000):
        patient.fail(queue.lease(f"w{number % 64}", LONG), f"RuntimeError: {number} " + "CUDA error " * 30)
    for number in range(64):
        assert queue.lease(f"w{number}", LONG) is not None
    raw.setbit("sr:done:a", MILLION - 1, 1)  # the bitmap at its full length
    bytes_a_shard = (raw.info("memory")["used_memory"] - empty) / MILLION
    keys = {key: raw.memory_usage(key, samples=0) for key in sorted(raw.scan_iter())}
    with capsys.disabled():
        print(
            f"\nRedis memory of {MILLION:,} planned shards, 64 leased, 5,000 waiting after an error of 350 "
            f"characters: {bytes_a_shard:.2f} bytes a shard; by key {keys}"
        )
    assert queue.counts("a").leased == 64
    assert raw.zcard("sr:delayed") == 5_000
    assert bytes_a_shard < 10
    assert raw.dbsize() <= 14
    patient.close()


def test_the_time_of_workers_is_summed_once_a_shard(queue: Queue) -> None:
    add(queue, "timed", 3)
    first, second = queue.lease("one", LONG), queue.lease("two", LONG)
    assert first is not None
    assert second is not None
    for lease, seconds in ((first, 1.5), (first, 99.0), (second, 0.25)):
        queue.complete(lease, groups=1, images=2, skipped=0, seconds=seconds)
    assert queue.status("timed").worker_seconds == 1.75
