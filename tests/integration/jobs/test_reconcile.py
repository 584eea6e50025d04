"""The queue rebuilt from the store, on servers that really lose their data; nothing missing, none twice."""

import threading
import time

import pytest
import redis

from stablerep.errors import NotFound, Unavailable
from stablerep.jobs.control import cancel_job, pause_job, record_dead, resume_job, retry_job
from stablerep.jobs.planning.plan import plan
from stablerep.jobs.records import Event, write_event
from stablerep.jobs.recovery import repair as repairing
from stablerep.jobs.recovery.repair import Depth, repair
from stablerep.queue.client import Queue
from stablerep.queue.states import JobState
from stablerep.shards.layout import create_key, dataset_prefix, index_key, index_prefix
from stablerep.storage import open_store
from tests.reconciling import (
    NEVER,
    StopAfter,
    bury,
    caption_ids,
    complete,
    count_totals,
    is_exact,
    lose_everything,
    make,
    rebuilt,
    reconcile_job,
    submit,
    work,
)

pytestmark = pytest.mark.parametrize("redis_kind", ["valkey", "redis"])
LOCAL = pytest.mark.parametrize("store_url", ["local"], indirect=True)
STATES = ["cancelled", "dead", "failed", "finished", "half", "paused", "running"]


@pytest.fixture
def store(store_url, queue):
    store = open_store(store_url)
    assert rebuilt(store, queue)  # an empty store's rebuild
    return store


@pytest.fixture
def wipe(redis_server):
    return lambda: lose_everything(redis_server)


@pytest.fixture
def flush(redis_server):
    client = redis.Redis.from_url(redis_server.url)
    yield client.flushall
    client.close()


def jobs_in_every_state(store, queue):
    """Seven jobs, one in each state there is when Redis is lost; a lease of the running one is out."""
    submit(store, queue, "finished", 5)
    work(store, queue)
    submit(store, queue, "dead", 6)
    bury(queue, "dead", 0, "no memory")
    record_dead(store, queue, "dead")
    work(store, queue, 1)
    pause_job(store, queue, "dead")
    submit(store, queue, "paused", 10)
    work(store, queue, 2)
    pause_job(store, queue, "paused")
    submit(store, queue, "cancelled", 10)
    work(store, queue, 2)
    cancel_job(store, queue, "cancelled")
    submit(store, queue, "failed", 0)
    submit(store, queue, "half", 10, stop=StopAfter(3))
    work(store, queue, 1)
    submit(store, queue, "running", 40, priority=2)
    work(store, queue, 5)
    return queue.lease("in flight", 60)


def facts(queue, name):
    status = queue.status(name)
    counts = status.counts
    waiting = counts.pending + counts.leased  # leases are lost with Redis; that is allowed
    return (
        status.state, status.priority, status.planned_all, status.error, counts.planned, waiting, counts.done,
        counts.dead, counts.groups, counts.images, counts.skipped, round(status.create_time.timestamp(), 3),
    )  # fmt: skip


@pytest.mark.parametrize("how", ["files deleted", "flushall"])
def test_every_job_is_what_it_was_after_redis_lost_everything(store, queue, wipe, flush, how):
    lease = jobs_in_every_state(store, queue)
    before = {name: queue.status(name) for name in STATES}
    told = {name: facts(queue, name)[:-1] for name in STATES}
    dead = queue.dead("dead")
    (wipe if how == "files deleted" else flush)()
    assert queue.epoch() is None
    assert queue.lease("w", 60) is None
    with pytest.raises(Unavailable, match="rebuilt"):
        queue.status("running")

    assert rebuilt(store, queue)
    assert {name: facts(queue, name)[:-1] for name in STATES} == told
    assert [told[name][0].value for name in STATES] == [
        "CANCELLED", "PAUSED", "FAILED", "SUCCEEDED", "PLANNING", "PAUSED", "RUNNING",
    ]  # fmt: skip
    assert queue.dead("dead") == dead
    assert queue.jobs() == STATES
    ended = queue.status("cancelled").end_time, before["cancelled"].end_time
    assert abs((ended[0] - ended[1]).total_seconds()) < 1

    assert complete(queue, lease, make(store, "running", lease.shard)), "a lease of before still counts"
    resume_job(store, queue, "paused")
    resume_job(store, queue, "dead")
    retry_job(store, queue, "dead")
    plan(store, queue, "half", NEVER)
    made = work(store, queue)
    assert len(made) == len(set(made))
    assert lease.shard not in [shard for name, shard in made if name == "running"]
    for name, captions in (("running", 40), ("paused", 10), ("half", 10), ("dead", 6), ("finished", 5)):
        assert queue.state(name) is JobState.SUCCEEDED
        assert is_exact(store, queue.counts(name), name)
        assert caption_ids(store, name) == list(range(captions))
    assert queue.state("cancelled") is JobState.CANCELLED
    assert queue.counts("cancelled").done == 2


class ListsThenWaits:
    """A store whose listing of a job's indexes is handed on only after `meanwhile()`."""

    def __init__(self, store, dataset, meanwhile):
        self._store = store
        self._prefix = index_prefix(dataset)
        self._meanwhile = meanwhile

    def __getattr__(self, name):
        return getattr(self._store, name)

    def children(self, prefix=""):
        names = list(self._store.children(prefix))
        if prefix == self._prefix:
            self._meanwhile()
        return iter(names)


@LOCAL
@pytest.mark.parametrize("index_was_listed", [False, True])
def test_a_completion_that_races_with_the_rebuild_counts_once(store, queue, flush, index_was_listed):
    submit(store, queue, "shoes", 20)
    work(store, queue, 3)
    lease = queue.lease("late", 60)
    index = make(store, "shoes", lease.shard) if index_was_listed else None
    flush()
    refused = []

    def meanwhile():
        """The worker commits after the listing and reports while the rebuild is on."""
        nonlocal index
        index = index or make(store, "shoes", lease.shard)
        with pytest.raises(Unavailable, match="REBUILDING"):
            complete(queue, lease, index)
        refused.append(lease)

    assert rebuilt(ListsThenWaits(store, "shoes", meanwhile), queue)
    assert refused
    assert complete(queue, lease, index) is not index_was_listed
    assert not complete(queue, lease, index)
    assert queue.counts("shoes").done == 4
    assert is_exact(store, queue.counts("shoes"), "shoes")
    work(store, queue)
    assert is_exact(store, queue.counts("shoes"), "shoes")
    assert queue.state("shoes") is JobState.SUCCEEDED


@LOCAL
def test_a_completion_before_the_rebuild_began_counts_once(store, queue, flush):
    submit(store, queue, "shoes", 8)
    lease = queue.lease("late", 60)
    flush()
    assert not complete(queue, lease, make(store, "shoes", lease.shard))
    rebuilt(store, queue)
    assert is_exact(store, queue.counts("shoes"), "shoes")
    assert queue.counts("shoes").done == 1


@LOCAL
def test_workers_go_on_while_the_finished_shards_are_counted(store, queue, flush):
    """Shards are leased once the listing is done; what was done before is counted once, whoever dies."""
    submit(store, queue, "shoes", 60)
    work(store, queue, 10)
    flush()
    repair(store, queue)
    assert (queue.counts("shoes").done, queue.counts("shoes").groups) == (10, 0)
    made = []

    class WorkedOnMeanwhile:
        def __getattr__(self, name):
            return getattr(store, name)

        def get(self, key):
            if not made:
                made.append(work(store, queue, 5))
            return store.get(key)

    class Dies(WorkedOnMeanwhile):
        def get(self, key):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        count_totals(Dies(), queue)
    assert count_totals(WorkedOnMeanwhile(), queue) == 1
    assert queue.counts("shoes").done == 15
    assert is_exact(store, queue.counts("shoes"), "shoes")
    assert count_totals(store, queue) == 0
    flush()
    repair(store, queue)
    reconcile_job(store, queue, "shoes")
    assert is_exact(store, queue.counts("shoes"), "shoes")
    assert count_totals(store, queue) == 0, "reconciliation has done it"


@LOCAL
def test_steps_that_change_a_job_wait_for_the_rebuild(store, queue, flush):
    submit(store, queue, "shoes", 8)
    flush()
    refused = []

    def meanwhile():
        for step in (
            lambda: cancel_job(store, queue, "shoes"),
            lambda: queue.set_planned("shoes", 99),
            lambda: queue.set_state("shoes", JobState.CANCELLED),
            lambda: queue.add_job("shoes"),
            lambda: queue.retry("shoes", [0]),
            lambda: queue.remove("shoes"),
        ):
            with pytest.raises(Unavailable):
                step()
            refused.append(step)
        assert queue.lease("w", 60) is None

    rebuilt(ListsThenWaits(store, "shoes", meanwhile), queue)
    assert len(refused) == 6
    assert queue.state("shoes") is JobState.RUNNING
    assert queue.counts("shoes").planned == 4


@LOCAL
def test_of_many_processes_one_rebuilds(store, queue, redis_server, flush):
    submit(store, queue, "shoes", 40)
    work(store, queue, 10)
    flush()
    listings = []
    slow = ListsThenWaits(store, "shoes", lambda: (listings.append(1), time.sleep(0.3)))
    answers = []

    def ask():
        own = Queue(redis_server.url)
        while not rebuilt(slow, own):
            assert own.lease("w", 60) is None or own.epoch()
            time.sleep(0.02)
        answers.append(own.counts("shoes").done)
        own.close()

    threads = [threading.Thread(target=ask) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(listings) == 1
    assert answers == [10] * 8


@LOCAL
def test_a_rebuild_that_dies_half_way_is_begun_anew(store, queue, flush, monkeypatch):
    for name in ("a", "b", "c"):
        submit(store, queue, name, 6)
    work(store, queue, 4)
    flush()

    def dies():
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        rebuilt(ListsThenWaits(store, "b", dies), queue)
    assert queue.jobs() == ["a"]
    assert queue.epoch() is None
    assert queue.lease("w", 60) is None
    make(store, "a", 2)  # a late worker's, after "a" was put in place
    assert rebuilt(store, queue)
    assert [is_exact(store, queue.counts(name), name) for name in ("a", "b", "c")] == [True] * 3
    work(store, queue)
    assert [queue.state(name).value for name in ("a", "b", "c")] == ["SUCCEEDED"] * 3


@LOCAL
def test_a_rebuilder_that_lost_its_lock_changes_nothing_more(store, queue, redis_server, flush):
    submit(store, queue, "shoes", 8)
    flush()
    client = redis.Redis.from_url(redis_server.url)
    slow = ListsThenWaits(store, "shoes", lambda: client.set("sr:rebuild", "another's"))
    with pytest.raises(Unavailable):
        rebuilt(slow, queue)
    assert queue.epoch() is None
    assert not client.exists("sr:job:shoes")
    assert client.get("sr:rebuild") == b"another's"
    assert not rebuilt(store, queue), "another process is at it"
    client.delete("sr:rebuild")
    client.close()
    assert rebuilt(store, queue)


@LOCAL
def test_a_deletion_begun_before_is_finished_and_its_job_not_restored(store, queue, flush):
    submit(store, queue, "gone", 6)
    submit(store, queue, "stays", 6)
    work(store, queue)
    write_event(store, "gone", Event(kind="delete", delete_data=True))
    store.delete(index_key("gone", 0))
    flush()
    assert rebuilt(store, queue)
    assert queue.jobs() == ["stays"]
    assert not list(store.list(dataset_prefix("gone")))


@LOCAL
def test_a_job_that_the_queue_was_never_told_of_is_added(store, queue):
    submit(store, queue, "known", 4)
    submit(store, queue, "lost", 6)
    work(store, queue, 3)
    queue.remove("lost")
    store.put("datasets/not-a-job/dataset.json", b"{}")
    for _ in range(2):
        repair(store, queue, Depth.RECORDS)
        assert queue.jobs() == ["known", "lost"]
    count_totals(store, queue)
    assert is_exact(store, queue.counts("lost"), "lost")
    work(store, queue)
    assert queue.state("lost") is JobState.SUCCEEDED
    queue.remove("known")
    store.delete(create_key("known"))
    repair(store, queue, Depth.RECORDS)
    with pytest.raises(NotFound):
        queue.state("known")


@LOCAL
def test_a_job_of_many_shards_and_dead_letters_is_rebuilt_exactly(store, queue, flush, monkeypatch):
    monkeypatch.setattr(repairing, "_DEAD_AT_A_TIME", 7)
    submit(store, queue, "many", 3000, per_shard=1)
    work(store, queue, 200)
    while len(queue.dead("many")) < 20:
        lease = queue.lease("w", 60)
        queue.fail(lease, f"shard {lease.shard} is bad")
    record_dead(store, queue, "many")
    before = facts(queue, "many")
    dead = queue.dead("many")
    flush()
    rebuilt(store, queue)
    assert facts(queue, "many")[:-1] == before[:-1]
    assert queue.dead("many") == dead


def test_everything_is_there_after_a_restart_with_the_append_only_file(store, queue, redis_server):
    jobs_in_every_state(store, queue)
    before = {name: facts(queue, name) for name in STATES}
    epoch = queue.epoch()
    redis_server.kill()
    redis_server.start()
    assert queue.epoch() == epoch
    assert rebuilt(store, queue)
    assert {name: facts(queue, name) for name in STATES} == before


@LOCAL
def test_deleting_the_epoch_alone_rebuilds_over_what_is_there(store, queue, redis_server):
    submit(store, queue, "shoes", 20)
    work(store, queue, 3)
    lease = queue.lease("in flight", 60)
    client = redis.Redis.from_url(redis_server.url)
    client.hset("sr:job:shoes", "groups", 999)
    client.delete("sr:epoch")
    client.close()
    assert queue.lease("w", 60) is None
    assert rebuilt(store, queue)
    assert is_exact(store, queue.counts("shoes"), "shoes")
    assert queue.counts("shoes").leased == 0
    assert complete(queue, lease, make(store, "shoes", lease.shard))
    made = work(store, queue)
    assert len(made) == len(set(made)) == 6
    assert queue.state("shoes") is JobState.SUCCEEDED
    assert is_exact(store, queue.counts("shoes"), "shoes")
