"""The queue on real Valkey and Redis servers: leases, retries, fairness, and exact counts all the while."""

import random
import threading
import time
from collections import Counter

import pytest
import redis

from stablerep.errors import InvalidInput, NotFound, Unavailable
from stablerep.queue.client import MAX_LOST, FailOutcome, Lease, Queue, RenewOutcome, ShardFailures
from stablerep.queue.states import Counts, JobState
from stablerep.testing.queue import expire
from tests.queueing import LONG, add, drain, finish

pytestmark = pytest.mark.parametrize("redis_kind", ["valkey", "redis"])


@pytest.fixture
def raw(redis_url):
    """Plain Redis commands, to look at what the queue left behind."""
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


def assert_nothing_left(raw):
    assert raw.xlen("sr:ready") == 0
    assert raw.xpending("sr:ready", "generators")["pending"] == 0
    assert raw.zcard("sr:backlog") == 0


def test_every_shard_of_a_job_is_leased_once_and_the_job_succeeds(queue, raw):
    add(queue, "a", 20)
    assert sorted(drain(queue)) == [("a", shard) for shard in range(20)]
    status = queue.status("a")
    assert status.state is JobState.SUCCEEDED
    assert status.counts == Counts(planned=20, done=20, groups=40, images=160, skipped=20)
    assert status.create_time <= status.end_time
    assert_nothing_left(raw)


def test_counts_put_each_shard_in_one_place(queue):
    add(queue, "a", 12)
    first, second, third = (queue.lease("w", LONG) for _ in range(3))
    assert queue.counts("a") == Counts(planned=12, pending=9, leased=3)
    finish(queue, first)
    assert queue.counts("a") == Counts(planned=12, pending=9, leased=2, done=1, groups=2, images=8, skipped=1)
    queue.release(second)
    queue.fail(third, "broken")
    assert queue.counts("a") == Counts(planned=12, pending=11, done=1, groups=2, images=8, skipped=1)


def test_shards_are_served_while_planning_goes_on(queue):
    queue.add_job("a")
    assert queue.lease("w", LONG) is None
    assert queue.set_planned("a", 2) is JobState.PLANNING
    assert drain(queue) == [("a", 0), ("a", 1)]
    assert queue.state("a") is JobState.PLANNING
    queue.set_planned("a", 3)
    queue.set_planned("a", 1)  # a planner that starts over never shrinks the job
    assert queue.finish_planning("a") is JobState.RUNNING
    assert drain(queue) == [("a", 2)]
    assert queue.state("a") is JobState.SUCCEEDED


def test_planning_that_ends_after_the_last_shard_is_done_ends_the_job(queue):
    queue.add_job("a")
    queue.set_planned("a", 1)
    drain(queue)
    assert queue.finish_planning("a") is JobState.SUCCEEDED


def test_a_job_that_is_there_already_is_left_alone(queue):
    assert queue.add_job("a", priority=3)
    queue.set_planned("a", 4)
    assert not queue.add_job("a", priority=5)
    assert queue.status("a").priority == 3
    assert queue.counts("a").planned == 4
    assert queue.jobs() == ["a"]


def test_nothing_is_leased_before_an_epoch_begins(redis_url):
    queue = Queue(redis_url)
    add(queue, "a", 1)
    assert queue.epoch() is None
    assert queue.lease("w", LONG) is None
    epoch = queue.begin_epoch()
    assert queue.epoch() == epoch
    assert Queue(redis_url).begin_epoch() == epoch
    assert drain(queue) == [("a", 0)]


def test_second_completion_of_a_shard_is_not_counted(queue, raw):
    add(queue, "a", 2)
    lease = queue.lease("w", LONG)
    assert finish(queue, lease)
    assert not finish(queue, lease)
    assert queue.counts("a") == Counts(planned=2, pending=1, done=1, groups=2, images=8, skipped=1)
    drain(queue)
    assert queue.counts("a").done == 2
    assert_nothing_left(raw)


def test_completion_after_the_lease_was_reclaimed_counts_and_ends_the_other_lease(queue, raw):
    add(queue, "a", 1)
    slow = queue.lease("slow", LONG)
    expire(raw, slow)
    other = queue.lease("other", LONG)
    assert (other.shard, other.entry_id) == (slow.shard, slow.entry_id)
    assert queue.renew(slow) is RenewOutcome.LOST
    assert queue.renew(other) is RenewOutcome.HELD
    assert finish(queue, slow)
    assert queue.renew(other) is RenewOutcome.LOST
    assert not finish(queue, other)
    assert queue.counts("a") == Counts(planned=1, done=1, groups=2, images=8, skipped=1)
    assert queue.state("a") is JobState.SUCCEEDED
    assert queue.failures("a") == {}
    assert queue.lease("third", LONG) is None
    assert_nothing_left(raw)


def test_late_completion_ends_a_lease_under_a_new_entry(queue, raw):
    add(queue, "a", 1)
    slow = queue.lease("slow", LONG)
    expire(raw, slow)
    queue.release(queue.lease("other", LONG))
    third = queue.lease("third", LONG)
    assert third.entry_id != slow.entry_id
    assert finish(queue, slow)
    assert queue.counts("a") == Counts(planned=1, done=1, groups=2, images=8, skipped=1)
    assert queue.renew(third) is RenewOutcome.LOST
    assert queue.fail(third, "too late") is FailOutcome.IGNORED
    assert not finish(queue, third)
    assert_nothing_left(raw)


@pytest.mark.parametrize("also_fed", [False, True])
def test_late_completion_of_a_shard_handed_back_takes_it_out_of_the_backlog(queue, raw, also_fed):
    add(queue, "b", 1)
    add(queue, "a", 1)
    in_b = queue.lease("w", LONG)
    slow = queue.lease("slow", LONG)
    expire(raw, slow)
    queue.release(queue.lease("other", LONG))
    if also_fed:
        queue.release(in_b)
        in_b = queue.lease("w", LONG)
        in_b = in_b if in_b.dataset == "b" else queue.lease("w", LONG)
    assert finish(queue, slow)
    finish(queue, in_b)
    assert queue.lease("w", LONG) is None
    assert queue.counts("a").done == queue.counts("b").done == 1
    assert_nothing_left(raw)


def test_a_renewed_lease_is_not_reclaimed(queue):
    add(queue, "a", 1)
    lease = queue.lease("w", 0.2)
    for _ in range(6):
        time.sleep(0.08)
        assert queue.renew(lease) is RenewOutcome.HELD
        assert queue.lease("other", 0.2) is None
    time.sleep(0.25)
    assert queue.lease("other", 0.2).shard == lease.shard


def test_a_lease_is_handed_on_however_many_renewed_ones_were_taken_before_it(queue, raw):
    add(queue, "a", 60)
    held = [queue.lease(f"w{number}", LONG) for number in range(59)]
    lost = queue.lease("lost", LONG)
    expire(raw, *held, lost)
    assert {queue.renew(lease) for lease in held} == {RenewOutcome.HELD}
    again = queue.lease("other", LONG)
    assert (again.shard, again.worker) == (lost.shard, "other")


def test_only_the_owner_renews_fails_or_releases(queue):
    add(queue, "a", 1)
    lease = queue.lease("w", LONG)
    thief = Lease("a", lease.shard, lease.entry_id, "thief", lease.deadline)
    assert queue.renew(thief) is RenewOutcome.LOST
    assert queue.fail(thief, "mine") is FailOutcome.IGNORED
    assert not queue.release(thief)
    assert queue.failures("a") == {}
    assert queue.renew(lease) is RenewOutcome.HELD
    assert queue.counts("a").leased == 1


def test_third_error_makes_a_shard_dead_and_the_job_fails_once_the_rest_is_done(queue, raw):
    add(queue, "a", 2)
    outcomes = []
    for attempt in range(3):
        lease = queue.lease("w", LONG)
        while lease.shard != 1:
            finish(queue, lease)
            lease = queue.lease("w", LONG)
        outcomes.append(queue.fail(lease, f"boom {attempt} \ud800"))
    assert outcomes == [FailOutcome.RETRY, FailOutcome.RETRY, FailOutcome.DEAD]
    assert queue.dead("a") == {1: "boom 2 ?"}
    assert queue.failures("a") == {1: ShardFailures(errors=3)}
    assert drain(queue) in ([], [("a", 0)])
    status = queue.status("a")
    assert status.state is JobState.FAILED
    assert status.end_time is not None
    assert (status.counts.done, status.counts.dead, status.counts.pending) == (1, 1, 0)
    assert_nothing_left(raw)


def test_late_completion_revives_a_dead_shard_and_its_failed_job(queue, raw):
    add(queue, "a", 1)
    slow = queue.lease("slow", LONG)
    expire(raw, slow)
    for _ in range(3):
        queue.fail(queue.lease("w", LONG), "boom")
    assert queue.state("a") is JobState.FAILED
    assert finish(queue, slow)
    assert queue.dead("a") == {}
    assert queue.failures("a") == {}
    assert queue.state("a") is JobState.SUCCEEDED


def test_lost_leases_are_counted_apart_from_errors(queue, raw):
    add(queue, "a", 1)
    queue.fail(queue.lease("w", LONG), "boom")
    lease = queue.lease("w", LONG)
    for _ in range(4):
        expire(raw, lease)
        lease = queue.lease("w", LONG)
    assert queue.failures("a") == {0: ShardFailures(errors=1, lost=4, error="boom")}
    finish(queue, lease)
    assert queue.failures("a") == {}


def test_releasing_leaves_no_mark_however_often(queue):
    add(queue, "a", 1)
    for _ in range(2 * MAX_LOST):
        assert queue.release(queue.lease("w", LONG))
    assert queue.failures("a") == {}
    assert drain(queue) == [("a", 0)]


def test_a_shard_whose_lease_is_lost_too_often_is_dead(queue, raw):
    add(queue, "a", 1)
    for _ in range(MAX_LOST + 1):
        expire(raw, queue.lease("w", LONG))
    dead_lettered = []
    assert queue.lease("w", LONG, on_dead_lettered=dead_lettered.append) is None
    assert dead_lettered == ["a"]
    assert "21 workers" in queue.dead("a")[0]
    assert queue.state("a") is JobState.FAILED
    assert_nothing_left(raw)


@pytest.mark.parametrize(
    ("refuse", "take_again"),
    [
        ("REPLICAOF 127.0.0.1 1", "REPLICAOF NO ONE"),
        ("CONFIG SET min-replicas-to-write 1", "CONFIG SET min-replicas-to-write 0"),
    ],
)
def test_a_server_that_takes_no_writes_is_away_and_costs_no_attempt(queue, raw, refuse, take_again):
    add(queue, "a", 2)
    lease = queue.lease("w", LONG)
    raw.execute_command(refuse)
    for call in (
        lambda: queue.lease("other", LONG),
        lambda: queue.fail(lease, "no fault of its"),
        lambda: finish(queue, lease),
        lambda: queue.add_job("b"),
    ):
        with pytest.raises(Unavailable, match="at the moment"):
            call()
    raw.execute_command(take_again)
    assert queue.failures("a") == {}
    assert finish(queue, lease)
    assert drain(queue) == [("a", 1)]


def test_a_full_server_takes_no_jobs_but_loses_no_shard(queue, raw):
    add(queue, "a", 30)
    queue.add_job("b")
    raw.config_set("maxmemory", 1)
    for call in (lambda: queue.add_job("c"), lambda: queue.set_planned("b", 5)):
        with pytest.raises(Unavailable, match="at the moment"):
            call()
    for _ in range(20):  # a step that frees memory first is let through, as a whole
        try:
            lease = queue.lease("w", LONG)
            assert lease is None or finish(queue, lease)
        except Unavailable:
            pass
    raw.config_set("maxmemory", 0)
    drain(queue)
    assert queue.counts("a").done == 30
    assert queue.failures("a") == {}
    assert queue.set_planned("b", 5) is JobState.PLANNING


def test_a_server_that_is_busy_with_a_script_is_away(queue, raw, redis_url):
    add(queue, "a", 1)
    raw.config_set("busy-reply-threshold", 1)
    stuck = redis.Redis.from_url(redis_url)
    thread = threading.Thread(target=_run_for_ever, args=(stuck,))
    thread.start()
    try:
        time.sleep(0.5)
        for call in (lambda: queue.lease("w", LONG), lambda: queue.status("a"), lambda: queue.state("a")):
            with pytest.raises(Unavailable, match="at the moment"):
                call()
    finally:
        raw.execute_command("SCRIPT KILL")
        thread.join()
        stuck.close()
    assert drain(queue) == [("a", 0)]


def _run_for_ever(client):
    with pytest.raises(redis.ResponseError, match="killed"):
        client.eval("while true do end", 0)


def test_jobs_of_one_priority_take_turns(queue):
    add(queue, "big", 500)
    taken = [queue.lease("w", LONG).dataset for _ in range(20)]
    add(queue, "small", 30)
    taken = Counter(queue.lease("w", LONG).dataset for _ in range(60))
    assert abs(taken["big"] - taken["small"]) <= 9  # at most what the stream held when the second job came


def test_higher_priority_goes_first(queue):
    add(queue, "low", 100, priority=0)
    queue.release(queue.lease("w", LONG))
    add(queue, "high", 30, priority=9)
    add(queue, "middle", 30, priority=5)
    order = [dataset for dataset, _ in drain(queue)]
    assert set(order[:7]) == {"low"}  # already in the stream
    assert order[7:67] == ["high"] * 30 + ["middle"] * 30
    assert set(order[67:]) == {"low"}


def test_the_stream_stays_short_however_large_the_backlog(queue, raw):
    add(queue, "a", 100_000)
    for _ in range(50):
        queue.lease("w", LONG)
    assert raw.xlen("sr:ready") - 50 <= 8


def test_no_key_a_shard(queue, raw):
    add(queue, "a", 10_000)
    held = [queue.lease("w", LONG) for _ in range(300)]
    for lease in held[:100]:
        finish(queue, lease)
    for lease in held[100:200]:
        queue.release(lease)
    queue.fail(held[200], "boom")
    assert raw.dbsize() <= 12
    before = sum(raw.memory_usage(key) for key in raw.scan_iter())
    queue.add_job("b")
    queue.set_planned("b", 1_000_000)
    assert sum(raw.memory_usage(key) for key in raw.scan_iter()) < before + 2_000


def test_cancelling_drops_what_waits_and_keeps_what_is_done(queue, raw):
    add(queue, "a", 50)
    add(queue, "b", 3)
    mine = [queue.lease("w", LONG) for _ in range(4)]
    of_a = [lease for lease in mine if lease.dataset == "a"]
    finish(queue, of_a[0])
    assert queue.set_state("a", JobState.CANCELLED) is JobState.CANCELLED
    assert {queue.renew(lease) for lease in of_a[1:]} == {RenewOutcome.CANCELLED}
    assert finish(queue, of_a[1])  # it is in the store, so it counts
    for lease in of_a[2:]:
        assert queue.release(lease)
    for lease in mine:
        if lease.dataset == "b":
            queue.release(lease)
    assert {dataset for dataset, _ in drain(queue)} == {"b"}
    status = queue.status("a")
    assert status.state is JobState.CANCELLED
    assert (status.counts.done, status.counts.leased, status.counts.dead) == (2, 0, 0)
    assert status.end_time is not None
    assert_nothing_left(raw)


def test_an_expired_lease_of_a_cancelled_job_is_dropped(queue, raw):
    add(queue, "a", 1)
    lease = queue.lease("w", LONG)
    queue.set_state("a", JobState.CANCELLED)
    expire(raw, lease)
    assert queue.lease("other", LONG) is None
    assert queue.failures("a") == {}
    assert queue.counts("a").leased == 0
    assert_nothing_left(raw)


def test_final_states_stay(queue):
    add(queue, "a", 1)
    drain(queue)
    assert queue.set_state("a", JobState.CANCELLED) is JobState.SUCCEEDED
    queue.add_job("b")
    queue.set_state("b", JobState.FAILED, "no usable caption")
    assert queue.set_planned("b", 5) is JobState.FAILED
    assert queue.finish_planning("b") is JobState.FAILED
    assert queue.set_state("b", JobState.RUNNING) is JobState.FAILED
    assert queue.status("b").error == "no usable caption"
    assert queue.lease("w", LONG) is None


def test_a_job_failed_with_an_error_is_not_revived_by_completions(queue):
    queue.add_job("a")
    queue.set_planned("a", 1)
    lease = queue.lease("w", LONG)
    queue.set_state("a", JobState.FAILED, "the source changed")
    assert queue.renew(lease) is RenewOutcome.CANCELLED
    finish(queue, lease)
    assert queue.state("a") is JobState.FAILED


def test_a_paused_job_is_served_again_only_when_resumed(queue, raw):
    add(queue, "a", 10)
    held = queue.lease("w", LONG)
    queue.set_state("a", JobState.PAUSED)
    assert queue.lease("w", LONG) is None
    assert queue.renew(held) is RenewOutcome.HELD
    finish(queue, held)
    assert queue.state("a") is JobState.PAUSED
    assert queue.set_state("a", JobState.RUNNING) is JobState.RUNNING
    assert len(drain(queue)) == 9
    assert queue.state("a") is JobState.SUCCEEDED
    assert_nothing_left(raw)


def test_a_job_paused_in_planning_is_planned_on_when_resumed(queue):
    queue.add_job("a")
    queue.set_state("a", JobState.PAUSED)
    assert queue.set_planned("a", 1) is JobState.PAUSED
    assert queue.set_state("a", JobState.RUNNING) is JobState.PLANNING
    queue.set_state("a", JobState.PAUSED)
    assert queue.finish_planning("a") is JobState.PAUSED
    assert queue.set_state("a", JobState.RUNNING) is JobState.RUNNING


def test_entries_of_a_job_that_is_gone_are_dropped(queue, raw):
    add(queue, "a", 10)
    lease = queue.lease("w", LONG)
    raw.delete("sr:job:a", "sr:backlog")
    assert queue.lease("w", LONG) is None
    assert queue.renew(lease) is RenewOutcome.CANCELLED
    assert not finish(queue, lease)
    assert_nothing_left(raw)
    assert raw.exists("sr:done:a") == 0


def test_a_server_that_lost_everything_is_an_empty_queue_not_an_error(queue, raw):
    add(queue, "a", 10)
    lease = queue.lease("w", LONG)
    raw.flushall()
    assert queue.renew(lease) is RenewOutcome.LOST
    assert queue.fail(lease, "boom") is FailOutcome.IGNORED
    assert not queue.release(lease)
    assert queue.lease("w", LONG) is None
    assert not finish(queue, lease)
    assert queue.epoch() is None
    with pytest.raises(Unavailable, match="lost its data"):
        queue.counts("a")


def test_scripts_forgotten_by_the_server_are_sent_again(queue, raw):
    add(queue, "a", 2)
    drained = queue.lease("w", LONG)
    raw.script_flush()
    assert finish(queue, drained)
    assert len(drain(queue)) == 1


def test_a_rebuilt_bitmap_is_jumped_over(queue, raw):
    shards = 100_000
    queue.add_job("a")
    raw.set("sr:done:a", b"\xff" * (shards // 8))
    raw.setbit("sr:done:a", 77_777, 0)
    queue.set_planned("a", shards)
    assert queue.finish_planning("a") is JobState.RUNNING
    assert drain(queue) == [("a", 77_777)]
    assert queue.state("a") is JobState.SUCCEEDED


def test_workers_that_vanish_or_leave_are_struck_off_the_group(queue, raw):
    add(queue, "a", 2)
    expire(raw, queue.lease("vanishes", LONG))
    lease = queue.lease("leaves", LONG)
    queue.deregister_worker("leaves")
    assert queue.renew(lease) is RenewOutcome.HELD  # one that holds a lease is not struck off
    queue.release(lease)
    queue.deregister_worker("leaves")
    assert raw.xinfo_consumers("sr:ready", "generators") == []


def test_unknown_jobs_are_not_found(queue):
    for call in (
        queue.state,
        queue.counts,
        queue.finish_planning,
        lambda name: queue.set_planned(name, 1),
        lambda name: queue.set_state(name, JobState.CANCELLED),
    ):
        with pytest.raises(NotFound, match="'nope'"):
            call("nope")


def test_an_unreachable_server_says_where_and_hides_the_password(redis_server):
    url = redis_server.url.replace("redis://", "redis://:secret@")
    redis_server.kill()
    with pytest.raises(Unavailable, match=r"127\.0\.0\.1:\d+") as caught:
        Queue(url).jobs()
    assert "secret" not in str(caught.value)


def test_a_url_of_another_kind_is_refused(redis_kind):
    with pytest.raises(InvalidInput) as caught:
        Queue("http://localhost")
    assert caught.value.field == "redis_url"


def test_everything_survives_a_crash_of_the_server(queue, redis_server, raw):
    add(queue, "a", 40)
    lease = queue.lease("w", LONG)
    finish(queue, queue.lease("w", LONG))
    queue.fail(queue.lease("w", LONG), "boom")
    before = queue.counts("a"), queue.failures("a"), queue.epoch()
    time.sleep(1.2)  # appendfsync everysec
    redis_server.kill()
    redis_server.restart()
    assert (queue.counts("a"), queue.failures("a"), queue.epoch()) == before
    assert queue.renew(lease) is RenewOutcome.HELD
    finish(queue, lease)
    drain(queue)
    assert queue.counts("a") == Counts(planned=40, done=40, groups=80, images=320, skipped=40)
    assert_nothing_left(raw)


def test_many_unreliable_workers_end_with_exact_counts(redis_url, queue, raw):
    shards = 2_000
    add(queue, "a", shards - 500)
    add(queue, "b", 500)
    counted: Counter[tuple[str, int]] = Counter()
    errors: list[BaseException] = []
    lock = threading.Lock()

    def work(number):
        draw = random.Random(number)
        mine = Queue(redis_url, retry_seconds=0)
        late: list[Lease] = []
        try:
            while True:
                lease = mine.lease(f"w{number}", 0.2)
                if lease is None:
                    if all(mine.state(dataset).final for dataset in ("a", "b")):
                        break
                    time.sleep(0.02)
                    continue
                luck = draw.random()
                if luck < 0.02:
                    late.append(lease)  # a stall: completed long after somebody else got it
                elif luck < 0.12:
                    mine.fail(lease, "boom")
                elif luck < 0.14:
                    pass  # a crash
                elif luck < 0.18:
                    mine.release(lease)
                else:
                    if luck < 0.4:
                        mine.renew(lease)
                    record(mine, lease)
                    if luck < 0.5:
                        record(mine, lease)
                if len(late) > 3:
                    record(mine, late.pop(0))
            for lease in late:
                record(mine, lease)
        except BaseException as error:  # noqa: BLE001 - shown by the test itself
            errors.append(error)
        finally:
            mine.close()

    def record(mine, lease):
        if mine.complete(lease, groups=1, images=4, skipped=0):
            with lock:
                counted[lease.dataset, lease.shard] += 1

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert set(counted.values()) == {1}
    for dataset, size in (("a", shards - 500), ("b", 500)):
        made = {shard for name, shard in counted if name == dataset}
        dead = set(queue.dead(dataset))
        assert made.isdisjoint(dead)
        assert made | dead == set(range(size))
        assert queue.counts(dataset) == Counts(
            planned=size, done=len(made), dead=len(dead), groups=len(made), images=4 * len(made)
        )
        assert queue.state(dataset) is (JobState.FAILED if dead else JobState.SUCCEEDED)
        assert set(queue.failures(dataset)) == dead
    assert queue.lease("last", 0.001) is None
    assert_nothing_left(raw)
