"""Where queue and store part ways, the store is right: folders removed by hand, steps lost, locks lost."""

import asyncio
import json
import shutil
import time
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import redis

from services.gateway import background
from services.generator.stages.fetch import check_captions
from stablerep.config.recipe import load_recipe
from stablerep.errors import NotFound, TornObject, Unavailable
from stablerep.jobs.control import delete_job, pause_job, resume_job
from stablerep.jobs.job import CaptionSource, JobSpec
from stablerep.jobs.planning.create import create_job
from stablerep.jobs.records import read_dead
from stablerep.jobs.recovery.compare import invalidate_shards, snapshot
from stablerep.jobs.recovery.repair import Depth, repair
from stablerep.queue.lock import hold
from stablerep.queue.states import JobState
from stablerep.shards import Group, build_tar, commit_shard, read_captions
from stablerep.shards.layout import upload_key, upload_part_key
from stablerep.storage import open_store
from tests.reconciling import (
    bury,
    complete,
    count_totals,
    is_exact,
    make,
    rebuilt,
    reconcile_job,
    submit,
    work,
)

pytestmark = pytest.mark.parametrize("store_url", ["local"], indirect=True)


@pytest.fixture
def store(store_url, queue):
    store = open_store(store_url)
    assert rebuilt(store, queue)
    return store


@pytest.fixture
def server(redis_url):
    client = redis.Redis.from_url(redis_url, decode_responses=True)
    yield client
    client.close()


def remove_by_hand(store, dataset):
    shutil.rmtree(Path(urlsplit(store.url).path) / "datasets" / dataset)


def test_a_job_of_a_removed_folders_name_starts_anew(store, queue):
    submit(store, queue, "shoes", 4)
    work(store, queue)
    assert queue.state("shoes") is JobState.SUCCEEDED
    remove_by_hand(store, "shoes")
    submit(store, queue, "shoes", 6)
    assert queue.state("shoes") is JobState.RUNNING
    assert queue.counts("shoes").done == 0
    assert work(store, queue) == [("shoes", 0), ("shoes", 1), ("shoes", 2)]
    assert is_exact(store, queue.counts("shoes"), "shoes")


def test_a_job_whose_folder_was_removed_can_be_deleted(store, queue):
    submit(store, queue, "shoes", 4)
    remove_by_hand(store, "shoes")
    assert delete_job(store, queue, "shoes", delete_data=True) == 0
    assert queue.jobs() == []
    with pytest.raises(NotFound):
        delete_job(store, queue, "shoes", delete_data=True)


def test_a_pause_that_redis_lost_is_heard_again(store, queue):
    submit(store, queue, "shoes", 4)
    pause_job(store, queue, "shoes")
    queue.set_state("shoes", JobState.RUNNING)  # as a server that lost its last second has it
    repair(store, queue, Depth.RECORDS)
    assert queue.state("shoes") is JobState.PAUSED
    resume_job(store, queue, "shoes")
    repair(store, queue, Depth.RECORDS)
    assert queue.state("shoes") is JobState.RUNNING


def test_a_dead_letter_that_did_not_reach_the_store_does_so_later(store, queue):
    submit(store, queue, "shoes", 4)
    bury(queue, "shoes", 1, "no memory")
    assert read_dead(store, "shoes", 1) is None
    repair(store, queue, Depth.RECORDS)
    assert read_dead(store, "shoes", 1) == "no memory"


def test_a_lock_that_was_lost_is_not_had_again(store, queue, server):
    with hold(queue, "sr:repair:shoes", seconds=0.6) as lock:
        assert lock is not None
        server.delete("sr:repair:shoes")
        time.sleep(1.5)
        with pytest.raises(Unavailable):
            lock.check()
    assert server.get("sr:repair:shoes") is None


def test_a_shard_made_while_reconciliation_took_it_back_counts_once(store, queue):
    submit(store, queue, "shoes", 4)
    with hold(queue, "sr:repair:shoes") as lock:
        before = snapshot(queue, "shoes")
        lease = queue.lease("w", 60)
        assert lease is not None
        complete(queue, lease, make(store, "shoes", lease.shard))
        assert invalidate_shards(queue, lock, "shoes", before, before.totals, [lease.shard])
    assert is_exact(store, queue.counts("shoes"), "shoes")
    work(store, queue)
    assert is_exact(store, queue.counts("shoes"), "shoes")
    assert queue.state("shoes") is JobState.SUCCEEDED


def test_a_shard_left_by_an_earlier_job_of_the_name_is_not_taken_for_this_ones(store, queue):
    submit(store, queue, "shoes", 4)
    late = [Group(caption.id, "another text", (b"x",), {}) for caption in read_captions(store, "shoes", 0)]
    index = commit_shard(store, "shoes", 0, build_tar(late))
    lease = queue.lease("w", 60)
    assert lease is not None
    with pytest.raises(TornObject, match="earlier job"):
        check_captions(index, read_captions(store, "shoes", 0), lease)
    own = make(store, "shoes", 1)
    check_captions(own, read_captions(store, "shoes", 1), lease)
    found = reconcile_job(store, queue, "shoes", verify=True)
    assert found.problems == ("shard 0 holds other captions than its captions object",)


def test_a_job_whose_captions_cannot_be_read_fails_in_the_end(store, queue, redis_url, monkeypatch):
    """Nothing says that they have changed, so that it is tried again first."""
    monkeypatch.setattr(background, "POLL_SECONDS", 0.05)
    store.put(upload_part_key("u", 0), b"a shoe\n")
    facts = {"file_name": "captions.txt", "parts": 1, "size": 7}
    store.put(upload_key("u"), json.dumps(facts).encode())
    create_job(store, queue, JobSpec("shoes", load_recipe("tiny"), CaptionSource(upload_id="u"), 2))
    store.put(upload_key("u"), b"torn")

    async def plan_until_over():
        async with background.Planners(store, queue, threads=1):
            for _ in range(400):
                if queue.state("shoes").final:
                    return
                await asyncio.sleep(0.05)

    asyncio.run(plan_until_over())
    status = queue.status("shoes")
    assert status.state is JobState.FAILED
    assert "upload.json" in status.error


def test_counting_passes_over_a_job_that_is_gone_and_a_comparison_does_not(store, queue):
    submit(store, queue, "shoes", 4)
    remove_by_hand(store, "shoes")
    for name in ("shoes", "nothing"):
        assert repair(store, queue, Depth.SHARDS, name) is None
        with pytest.raises(NotFound):
            repair(store, queue, Depth.CONTENT, name)


def test_a_set_of_jobs_that_was_lost_is_filled_again_without_restoring_them(store, queue, server):
    submit(store, queue, "shoes", 4)
    work(store, queue)
    before = queue.status("shoes")
    server.delete("sr:jobs")
    repair(store, queue, Depth.RECORDS)
    assert queue.jobs() == ["shoes"]
    assert queue.status("shoes") == before
    assert queue.inspect() == []


class RestoreAt:
    """Loses and restores the job when a comparison asks the n-th time whether to stop, between two shards."""

    def __init__(self, store, queue, server, dataset: str, number: int) -> None:
        self.store, self.queue, self.server, self.dataset = store, queue, server, dataset
        self.asked, self.number = 0, number

    def is_set(self) -> bool:
        self.asked += 1
        if self.asked == self.number:
            work(self.store, self.queue, 1)
            lose_and_restore(self.store, self.queue, self.server, self.dataset)
            work(self.store, self.queue, 1)
        return False


def lose_and_restore(store, queue, server, dataset) -> None:
    assert server.delete(f"sr:job:{dataset}")
    assert queue.inspect()
    repair(store, queue)
    assert dataset in queue.run_script("uncounted")


@pytest.mark.parametrize("depth", [Depth.SHARDS, Depth.CONTENT])
def test_a_job_restored_while_it_is_compared_is_counted_once_more(store, queue, server, depth):
    """Totals begin anew with the restore: what was found before lacks a shard that they do not count.

    So it is with the time of workers, which the indexes keep: here 1 s and as many ms as its number.
    """
    asked, number = 1, 0
    while number < asked:
        dataset = f"shoes{number}"
        number += 1
        submit(store, queue, dataset, 20)
        work(store, queue, 4)
        lose_and_restore(store, queue, server, dataset)
        restore = RestoreAt(store, queue, server, dataset, number)
        repair(store, queue, depth, dataset, stop=restore)
        asked = restore.asked
        count_totals(store, queue)
        work(store, queue)
        assert queue.state(dataset) is JobState.SUCCEEDED
        assert is_exact(store, queue.counts(dataset), dataset), number
        assert queue.status(dataset).worker_seconds == 10.045
    assert number >= 3
