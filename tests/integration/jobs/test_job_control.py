"""Control of jobs over a real gateway, queue server and store: pause, resume, retry, delete, shards."""

import asyncio
import threading
import time
from contextlib import suppress

import pytest

from services.generator.lease_keeper import LeaseKeeper, LeaseOver
from stablerep.client import AsyncClient, JobState, ShardState
from stablerep.data import GroupDataset
from stablerep.errors import AlreadyExists, InvalidInput, NotFound, StoreError, WrongState
from stablerep.jobs.control import delete_job, finish_deletion, record_dead
from stablerep.jobs.records import Event, read_events, state_of, write_event
from stablerep.queue.client import RenewOutcome
from stablerep.shards.layout import create_key, dataset_prefix, dead_prefix, job_prefix
from stablerep.storage import open_store
from tests.gateways import caption_file, planned, wait_for
from tests.working import make_shard, work

ONE = pytest.mark.parametrize(("store_url", "redis_kind"), [("local", "valkey")], indirect=["store_url"])
BOTH = pytest.mark.parametrize(
    ("store_url", "redis_kind"), [("local", "valkey"), ("s3", "redis")], indirect=["store_url"]
)


@pytest.fixture
def store(store_url):
    return open_store(store_url)


@pytest.fixture
def create(client, tmp_path):
    """Creates a job of so many shards of two captions and waits until it is planned."""

    def create(name: str = "shoes", shards: int = 6):
        client.create_job(name, caption_file(tmp_path, 2 * shards), preset="tiny", captions_per_shard=2)
        return planned(client, name)

    return create


def kill_shards(store, queue, shards, error="boom"):
    """Makes all shards but these, which die and are recorded as a worker does."""
    return work(
        store, queue, fail=shards, error=error, on_dead=lambda ds, n: record_dead(store, queue, ds, n)
    )


def check_for(keeper, seconds):
    """What a worker does between the steps of a shard."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        keeper.check()
        time.sleep(0.05)


@ONE
class TestPause:
    def test_shards_in_work_are_finished_and_no_more_are_handed_out(self, client, create, store, queue):
        create()
        held = [queue.lease(f"w{n}", 60) for n in range(2)]
        assert client.pause_job("shoes").state is JobState.PAUSED
        assert client.pause_job("jobs/shoes").state is JobState.PAUSED
        assert queue.lease("other", 60) is None
        for lease in held:
            assert queue.renew(lease) is RenewOutcome.HELD
            assert queue.complete(lease, **make_shard(store, lease))
        job = client.get_job("shoes")
        assert (job.state, job.counts.done, job.counts.pending) == (JobState.PAUSED, 2, 4)
        assert client.resume_job("shoes").state is JobState.RUNNING
        assert client.resume_job("shoes").state is JobState.RUNNING
        assert len(work(store, queue)) == 4
        assert client.get_job("shoes").state is JobState.SUCCEEDED
        assert [event.kind for event in read_events(store, "shoes")] == ["pause", "resume"]

    def test_a_job_paused_while_it_is_planned_is_planned_on_but_not_served(
        self, client, tmp_path, store, queue
    ):
        captions = caption_file(tmp_path, 600)
        client.create_job("shoes", captions, preset="tiny", captions_per_shard=1)
        assert client.pause_job("shoes").state is JobState.PAUSED
        job = wait_for(client, "shoes", lambda job: job.counts.shards == 600)
        assert job.state is JobState.PAUSED
        assert queue.lease("w", 60) is None
        assert state_of(read_events(store, "shoes")).paused
        state = client.resume_job("shoes").state
        assert state in (JobState.PLANNING, JobState.RUNNING)
        assert planned(client, "shoes").counts.shards == 600

    def test_one_that_is_over_cannot_be_paused_and_says_so(self, client, create):
        create()
        client.cancel_job("shoes")
        with pytest.raises(WrongState, match="CANCELLED"):
            client.pause_job("shoes")
        assert client.resume_job("shoes").state is JobState.CANCELLED

    def test_a_pause_that_reached_the_store_alone_is_taken_back_by_a_resumption(self, client, create, store):
        create()
        write_event(store, "shoes", Event(kind="pause"))  # then the gateway died
        assert client.resume_job("shoes").state is JobState.RUNNING
        assert not state_of(read_events(store, "shoes")).paused


@ONE
class TestCancel:
    def test_a_worker_notices_within_seconds_though_its_lease_is_long(self, client, create, queue):
        create()
        lease = queue.lease("w", 60)
        with LeaseKeeper(queue, lease, 60) as keeper:
            client.cancel_job("shoes")
            cancelled = time.monotonic()
            with pytest.raises(LeaseOver, match="cancelled"):
                check_for(keeper, 10)
        assert time.monotonic() - cancelled < 4


@BOTH
class TestRetry:
    def test_dead_shards_are_listed_with_their_error_and_tried_again(self, client, create, store, queue):
        create()
        kill_shards(store, queue, {1, 4}, error="CUDA error: [bus] gone")
        assert client.get_job("shoes").state is JobState.FAILED
        assert len(list(store.list(dead_prefix("shoes")))) == 2
        dead = list(client.list_shards("shoes", ShardState.DEAD))
        assert [(shard.number, shard.errors, shard.error) for shard in dead] == [
            (1, 3, "CUDA error: [bus] gone"),
            (4, 3, "CUDA error: [bus] gone"),
        ]
        job = client.retry_job("shoes", [4])
        assert (job.state, job.counts.dead, job.end_time) == (JobState.RUNNING, 1, None)
        assert [info.key for info in store.list(dead_prefix("shoes"))] == [
            "datasets/shoes/job/dead/000001.json"
        ]
        assert work(store, queue) == [4]
        assert client.retry_job("shoes").state is JobState.RUNNING
        assert list(store.list(dead_prefix("shoes"))) == []
        assert work(store, queue) == [1]
        job = client.get_job("shoes")
        assert (job.state, job.counts.done, job.error) == (JobState.SUCCEEDED, 6, "")
        assert client.retry_job("shoes").state is JobState.SUCCEEDED  # nothing is dead

    def test_a_job_that_failed_by_its_source_or_was_cancelled_stays_so_and_says_why(
        self, client, create, store
    ):
        store.put("empty.txt", b"\n\n")
        client.create_job("empty", "store:empty.txt", preset="tiny")
        assert planned(client, "empty").state is JobState.FAILED
        with pytest.raises(WrongState, match=r"failed by its source.*create another"):
            client.retry_job("empty")
        create()
        client.cancel_job("shoes")
        with pytest.raises(WrongState, match="CANCELLED"):
            client.retry_job("shoes")

    def test_numbers_that_no_shard_has_are_refused(self, client, create):
        create()
        for wrong in ([6], [-1], [0, 99]):
            with pytest.raises(InvalidInput) as caught:
                client.retry_job("shoes", wrong)
            assert caught.value.field == "shards"
        assert client.retry_job("shoes", [2]).counts.dead == 0  # not dead: passed over


@BOTH
class TestDelete:
    def test_with_its_data_nothing_is_left_and_the_name_is_free(self, client, create, store, queue):
        create(shards=1200)
        work(store, queue, most=30)
        with pytest.raises(WrongState, match="not over"):
            client.delete_job("shoes", delete_data=True)
        assert client.get_job("shoes").state is JobState.RUNNING
        client.cancel_job("shoes")
        count = client.delete_job("shoes", delete_data=True)
        # Captions, tars, indexes; two files of the plan; dataset, create, planned, two events.
        assert count == 1200 + 2 * 30 + 2 + 5
        assert list(store.list(dataset_prefix("shoes"))) == []
        for call in (client.get_job, client.delete_job, client.pause_job, client.retry_job):
            with pytest.raises(NotFound):
                call("shoes")
        with pytest.raises(NotFound):
            list(client.list_shards("shoes"))
        assert list(client.list_jobs()) == []
        job = create(shards=3)
        assert (job.state, job.counts.shards) == (JobState.RUNNING, 3)
        assert sorted(work(store, queue)) == [0, 1, 2]

    def test_without_its_data_the_dataset_stays_readable(self, client, create, store, store_url, queue):
        job = create()
        work(store, queue)
        before = [info.key for info in store.list() if "/job/" not in info.key]
        client.delete_job("shoes")
        assert [info.key for info in store.list()] == before
        groups = GroupDataset(job.dataset_url)
        assert len(groups) == 12
        assert groups[3].caption.startswith("caption 3 ")
        assert groups[3].images[0].size == (8, 8)
        with pytest.raises(NotFound):
            client.get_job("shoes")
        with pytest.raises(AlreadyExists, match="no job made"):
            create()

    def test_by_force_a_running_job_is_cancelled_and_its_workers_let_go_first(
        self, client, create, store, queue
    ):
        create()
        lease = queue.lease("w", 60)
        released = []

        def worker():
            with LeaseKeeper(queue, lease, 60) as keeper:
                try:
                    check_for(keeper, 30)
                except LeaseOver:
                    released.append(queue.release(lease))

        thread = threading.Thread(target=worker)
        thread.start()
        began = time.monotonic()
        client.delete_job("shoes", delete_data=True, force=True)
        thread.join()
        assert released == [True]
        assert time.monotonic() - began < 6
        assert list(store.list(dataset_prefix("shoes"))) == []

    def test_one_that_was_stopped_half_way_is_carried_on_and_never_planned_anew(
        self, client, create, store, queue
    ):
        create(shards=3)
        client.cancel_job("shoes")
        attempts = 0
        while store.exists(create_key("shoes")):  # it goes last of all
            attempts += 1
            with suppress(StoreError):
                delete_job(_Fragile(store, 1), queue, "shoes", delete_data=True)
        assert attempts > 8
        assert list(store.list(dataset_prefix("shoes"))) == []
        assert not finish_deletion(store, queue, "shoes")

    def test_the_next_request_for_the_name_finishes_a_deletion_first(self, client, create, store, queue):
        create(shards=3)
        client.cancel_job("shoes")
        with pytest.raises(StoreError):
            delete_job(_Fragile(store, 4), queue, "shoes", delete_data=True)
        assert list(store.list(job_prefix("shoes")))
        job = create(shards=5)
        assert (job.state, job.counts.shards) == (JobState.RUNNING, 5)


class _Fragile:
    """A store that fails at the write or removal after so many that succeeded: a process killed there."""

    def __init__(self, store, steps):
        self._store = store
        self._steps = steps

    def _count(self):
        self._steps -= 1
        if self._steps < 0:
            raise StoreError("killed here")

    def put(self, key, data, *, if_absent=False):
        self._count()
        return self._store.put(key, data, if_absent=if_absent)

    def delete(self, key):
        self._count()
        self._store.delete(key)

    def delete_many(self, keys):
        count = 0
        for key in list(keys):
            self.delete(key)
            count += 1
        return count

    def __getattr__(self, name):
        return getattr(self._store, name)


@ONE
class TestShards:
    def test_pages_of_each_state(self, client, create, store, queue):
        create(shards=25)
        work(store, queue, most=10)
        held = [queue.lease(f"w{n}", 60) for n in range(3)]
        queue.fail(queue.lease("w", 60), "out of memory")
        everything = list(client.list_shards("shoes", page_size=4))
        assert [shard.number for shard in everything] == list(range(25))
        by_state = {
            state: [shard.number for shard in client.list_shards("shoes", state, page_size=3)]
            for state in ShardState
        }
        assert {state: len(numbers) for state, numbers in by_state.items()} == {
            ShardState.PENDING: 12,
            ShardState.LEASED: 3,
            ShardState.DONE: 10,
            ShardState.DEAD: 0,
        }
        leased = {shard.number: shard.worker for shard in client.list_shards("shoes", "leased")}
        assert leased == {lease.shard: lease.worker for lease in held}
        (failed,) = [shard for shard in everything if shard.errors]
        assert (failed.state, failed.error) == (ShardState.PENDING, "out of memory")
        assert failed.name == f"jobs/shoes/shards/{failed.number}"

    def test_what_cannot_be_is_refused(self, client, create):
        from stablerep.v1 import generation_pb2 as pb

        create(shards=5)
        with pytest.raises(InvalidInput, match="none of PENDING"):
            list(client.list_shards("shoes", "broken"))
        page = client._call(client._stub.ListShards, pb.ListShardsRequest(parent="jobs/shoes", page_size=2))
        token = page.next_page_token
        done = pb.Shard.DONE
        for request, field in (
            (pb.ListShardsRequest(parent="jobs/shoes", page_token="?"), "page_token"),
            (
                pb.ListShardsRequest(parent="jobs/shoes", page_token=token, state=done),
                "page_token",
            ),
            (pb.ListShardsRequest(parent="jobs/shoes", state=9), "state"),
            (pb.ListShardsRequest(parent="shoes"), "parent"),
        ):
            with pytest.raises(InvalidInput) as caught:
                client._call(client._stub.ListShards, request)
            assert caught.value.field == field
        with pytest.raises(NotFound):
            list(client.list_shards("nope"))


@ONE
def test_the_asyncio_client_has_the_same_verbs(gateway, client, create, store, queue):
    create()
    kill_shards(store, queue, {2})

    async def steer():
        async with AsyncClient(gateway.address) as jobs:
            dead = [shard.number async for shard in jobs.list_shards("shoes", "dead")]
            states = [
                (await jobs.retry_job("shoes", dead)).state,
                (await jobs.pause_job("shoes")).state,
                (await jobs.resume_job("shoes")).state,
                (await jobs.cancel_job("shoes")).state,
            ]
            removed = await jobs.delete_job("shoes", delete_data=True)
            return dead, states, removed

    dead, states, removed = asyncio.run(steer())
    assert dead == [2]
    assert states == [JobState.RUNNING, JobState.PAUSED, JobState.RUNNING, JobState.CANCELLED]
    assert removed > 10
    assert list(store.list(dataset_prefix("shoes"))) == []


@ONE
def test_events_come_in_order_though_the_clocks_of_gateways_differ(store, monkeypatch, client):
    ahead = time.time_ns() + 3600 * 10**9
    monkeypatch.setattr(time, "time_ns", lambda: ahead)
    write_event(store, "shoes", Event(kind="pause"))
    monkeypatch.undo()
    write_event(store, "shoes", Event(kind="resume"))
    assert [event.kind for event in read_events(store, "shoes")] == ["pause", "resume"]


@ONE
class TestCommandLine:
    @pytest.fixture
    def cli(self, gateway):
        from typer.testing import CliRunner

        from stablerep.cli import app

        def run(*words, **more):
            return CliRunner().invoke(app, ["jobs", *words, "--address", gateway.address], **more)

        return run

    def test_the_verbs_steer_a_job(self, cli, create, store, queue):
        create()
        assert "PAUSED" in cli("pause", "shoes").output
        assert "RUNNING" in cli("resume", "shoes").output
        kill_shards(store, queue, {3}, error="[Errno 28] no space")
        shown = cli("shards", "shoes", "--state", "dead").output
        assert "[Errno 28] no space" in shown
        assert "no leased shards" in cli("shards", "shoes", "--state", "leased").output
        assert "1 dead shards are tried again" in cli("retry", "shoes", "--shards", "3").output
        assert "--most 20" in cli("shards", "shoes", "--most", "2").output

    def test_delete_asks_first(self, cli, create, store, queue, client):
        create()
        work(store, queue)
        refused = cli("delete", "shoes", "--with-data", input="n\n")
        assert refused.exit_code == 1
        assert "12 images" in refused.output
        assert client.get_job("shoes").state is JobState.SUCCEEDED
        assert "the dataset stays" in cli("delete", "shoes", "--yes").output
        assert store.exists("datasets/shoes/dataset.json")
