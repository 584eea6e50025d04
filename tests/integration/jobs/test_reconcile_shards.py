"""Shards whose objects were lost, torn or left half written are found, taken back and made again."""

import threading

import pytest

from stablerep.errors import NotFound, Unavailable
from stablerep.jobs.control import cancel_job
from stablerep.jobs.recovery.repair import repair
from stablerep.queue.client import Queue
from stablerep.queue.lock import hold
from stablerep.queue.states import JobState
from stablerep.shards import read_captions
from stablerep.shards.layout import captions_key, dead_key, index_key, shard_key
from stablerep.storage import open_store
from tests.reconciling import (
    bury,
    caption_ids,
    complete,
    is_exact,
    make,
    reconcile_all,
    reconcile_job,
    submit,
    work,
)

LOCAL = pytest.mark.parametrize("store_url", ["local"], indirect=True)


@pytest.fixture
def store(store_url, queue):
    store = open_store(store_url)
    repair(store, queue)
    return store


@pytest.fixture
def finished(store, queue):
    """A job of six shards that SUCCEEDED; gives the tars as they were."""
    submit(store, queue, "shoes", 12)
    work(store, queue)
    assert queue.state("shoes") is JobState.SUCCEEDED
    return {shard: store.get(shard_key("shoes", shard)) for shard in range(6)}


def cut_short(store, shard, whole):
    """A tar that lost its second half."""
    store.put(shard_key("shoes", shard), whole[: len(whole) // 2])


def flip(store, shard, whole):
    """A tar of its right size with one wrong bit in an image."""
    at = whole.index(b"image of")
    store.put(shard_key("shoes", shard), whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])


def remove_tar(store, shard, whole):
    store.delete(shard_key("shoes", shard))


def remove_index(store, shard, whole):
    store.delete(index_key("shoes", shard))


def remove_both(store, shard, whole):
    remove_tar(store, shard, whole)
    remove_index(store, shard, whole)


def spoil_index(store, shard, whole):
    store.put(index_key("shoes", shard), b'{"size": 3}')


def spoil_index_and_tar(store, shard, whole):
    spoil_index(store, shard, whole)
    cut_short(store, shard, whole)


def torn_without_index(store, shard, whole):
    remove_index(store, shard, whole)
    cut_short(store, shard, whole)


def wrong_index(store, shard, whole):
    """The index of another shard."""
    store.put(index_key("shoes", shard), store.get(index_key("shoes", (shard + 1) % 6)))


@pytest.mark.parametrize(
    ("damage", "missing", "torn", "indexed"),
    [
        (cut_short, 0, 1, 0),
        (remove_tar, 1, 0, 0),
        (remove_both, 1, 0, 0),
        (remove_index, 0, 0, 1),
        (spoil_index, 0, 0, 1),
        (spoil_index_and_tar, 0, 1, 0),
        (torn_without_index, 0, 1, 0),
    ],
)
@pytest.mark.parametrize("verify", [False, True])
@LOCAL
def test_damage_is_found_and_the_shard_made_again(
    store, queue, finished, damage, missing, torn, indexed, verify
):
    damage(store, 3, finished[3])
    found = reconcile_job(store, queue, "shoes", verify=verify)
    assert (found.missing, found.torn, found.indexed) == (missing, torn, indexed)
    assert found.problems == ()
    to_make = missing + torn
    assert (found.done, found.shards) == (6 - to_make, 6)
    assert found.state is (JobState.RUNNING if to_make else JobState.SUCCEEDED)
    assert is_exact(store, queue.counts("shoes"), "shoes")
    assert work(store, queue) == [("shoes", 3)] * to_make
    assert queue.state("shoes") is JobState.SUCCEEDED
    assert {shard: store.get(shard_key("shoes", shard)) for shard in range(6)} == finished
    assert is_exact(store, queue.counts("shoes"), "shoes")
    again = reconcile_job(store, queue, "shoes", verify=True)
    assert (again.missing, again.torn, again.indexed, again.problems) == (0, 0, 0, ())


def test_a_truncated_tar_is_found_in_every_kind_of_store(store, queue, finished):
    cut_short(store, 1, finished[1])
    found = reconcile_job(store, queue, "shoes")
    assert (found.torn, found.missing, found.done) == (1, 0, 5)
    assert not store.exists(index_key("shoes", 1))
    assert not store.exists(shard_key("shoes", 1))
    assert work(store, queue) == [("shoes", 1)]
    assert caption_ids(store, "shoes") == list(range(12))
    assert is_exact(store, queue.counts("shoes"), "shoes")


@pytest.mark.parametrize("damage", [flip, wrong_index])
@LOCAL
def test_damage_that_keeps_the_size_is_found_by_reading(store, queue, finished, damage):
    assert len({len(tar) for tar in finished.values()}) == 1
    damage(store, 4, finished[4])
    assert reconcile_job(store, queue, "shoes").torn == 0
    assert reconcile_job(store, queue, "shoes", verify=True).torn == 1
    assert work(store, queue) == [("shoes", 4)]
    assert store.get(shard_key("shoes", 4)) == finished[4]
    assert is_exact(store, queue.counts("shoes"), "shoes")


@LOCAL
def test_lost_captions_are_written_again_from_the_source(store, queue):
    submit(store, queue, "shoes", 12)
    work(store, queue, 2)
    whole = {shard: store.get(captions_key("shoes", shard)) for shard in range(6)}
    store.delete(captions_key("shoes", 4))
    store.put(captions_key("shoes", 0), b"spoilt")
    assert reconcile_job(store, queue, "shoes", verify=True).problems == ()
    assert {shard: store.get(captions_key("shoes", shard)) for shard in range(6)} == whole
    work(store, queue)
    assert caption_ids(store, "shoes") == list(range(12))


@LOCAL
def test_captions_whose_source_is_gone_are_a_problem_that_is_told(store, queue):
    submit(store, queue, "shoes", 12)
    store.delete(captions_key("shoes", 4))
    store.delete("sources/shoes.txt")
    (problem,) = reconcile_job(store, queue, "shoes").problems
    assert "captions of 1 shards are lost, the first 4" in problem
    assert "gone" in problem


@LOCAL
def test_a_tar_of_other_captions_is_told(store, queue, finished):
    store.put(captions_key("shoes", 2), store.get(captions_key("shoes", 5)))
    assert read_captions(store, "shoes", 2)[0].id == 10
    (problem,) = reconcile_job(store, queue, "shoes", verify=True).problems
    assert "shard 2" in problem


@LOCAL
def test_a_tar_without_an_index_of_a_worker_that_died_is_counted(store, queue):
    submit(store, queue, "shoes", 12)
    lease = queue.lease("dies", 60)
    make(store, "shoes", lease.shard)
    store.delete(index_key("shoes", lease.shard))
    found = reconcile_job(store, queue, "shoes")
    assert (found.indexed, found.done) == (1, 1)
    assert is_exact(store, queue.counts("shoes"), "shoes")
    assert len(work(store, queue)) == 5
    assert queue.state("shoes") is JobState.SUCCEEDED


@LOCAL
def test_a_shard_that_died_of_its_torn_tar_lives_again(store, queue):
    submit(store, queue, "shoes", 4)
    store.put(shard_key("shoes", 0), b"half a tar")
    bury(queue, "shoes", 0, "the tar is damaged")
    work(store, queue)
    assert queue.state("shoes") is JobState.FAILED
    store.put(dead_key("shoes", 0), b'{"error": "the tar is damaged", "shard": 0}')
    found = reconcile_job(store, queue, "shoes")
    assert (found.torn, found.dead, found.state) == (1, 0, JobState.RUNNING)
    assert not store.exists(dead_key("shoes", 0))
    assert work(store, queue) == [("shoes", 0)]
    assert queue.state("shoes") is JobState.SUCCEEDED


@LOCAL
def test_dead_shards_and_cancelled_jobs_stay_as_they_are(store, queue):
    submit(store, queue, "shoes", 4)
    bury(queue, "shoes", 0, "no memory")
    work(store, queue)
    found = reconcile_job(store, queue, "shoes", verify=True)
    assert (found.dead, found.state) == (1, JobState.FAILED)
    assert store.exists(dead_key("shoes", 0)), "recorded where it outlives Redis"
    submit(store, queue, "bags", 8)
    work(store, queue, 2)
    cancel_job(store, queue, "bags")
    store.delete(shard_key("bags", 0))
    found = reconcile_job(store, queue, "bags")
    assert (found.state, found.missing, found.done) == (JobState.CANCELLED, 1, 1)
    assert queue.lease("w", 60) is None
    assert is_exact(store, queue.counts("bags"), "bags")


@LOCAL
def test_workers_go_on_meanwhile_and_counts_stay_exact(store, queue, redis_url):
    submit(store, queue, "shoes", 600)
    work(store, queue, 60)
    for shard in (3, 17, 40):
        tar = store.get(shard_key("shoes", shard))
        store.put(shard_key("shoes", shard), tar[:-100])
    for shard in (5, 6):
        store.delete(shard_key("shoes", shard))
        store.delete(index_key("shoes", shard))
    made = []

    def run():
        own = Queue(redis_url, retry_seconds=0)
        while not own.state("shoes").final:
            lease = own.lease(threading.current_thread().name, 60)
            if lease is not None and complete(own, lease, make(store, "shoes", lease.shard)):
                made.append(lease.shard)
        own.close()

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    found = [reconcile_job(store, queue, "shoes", verify=True) for _ in range(3)]
    for thread in threads:
        thread.join()
    assert sum(each.torn for each in found) == 3
    assert sum(each.missing for each in found) == 2
    assert len(made) == len(set(made)) == 300 - 60 + 5
    assert is_exact(store, queue.counts("shoes"), "shoes")
    assert caption_ids(store, "shoes") == list(range(600))


@LOCAL
def test_all_jobs_are_reconciled_and_one_at_a_time(store, queue, finished):
    submit(store, queue, "bags", 4)
    store.put("datasets/not-a-job/dataset.json", b"{}")
    remove_tar(store, 0, b"")
    with hold(queue, "sr:repair:bags"):
        bags, shoes = reconcile_all(store, queue)
        with pytest.raises(Unavailable):
            reconcile_job(store, queue, "bags")
    assert (bags.dataset, shoes.dataset, shoes.missing) == ("bags", "shoes", 1)
    assert "another process" in bags.problems[0]
    assert [found.problems for found in reconcile_all(store, queue)] == [(), ()]
    with pytest.raises(NotFound):
        reconcile_job(store, queue, "nothing")
