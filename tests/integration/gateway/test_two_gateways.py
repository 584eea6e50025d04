"""Two gateways over one queue and one store behave as one: what one was told, the other knows and does."""

import signal
import threading

import pytest

from stablerep.client import Client, JobState
from stablerep.errors import AlreadyExists, NotFound
from stablerep.queue.client import Queue
from stablerep.shards.layout import captions_prefix
from stablerep.storage import open_store
from stablerep.testing.gateway import GatewayProcess
from tests.gateways import caption_file, planned, planned_captions, wait_for
from tests.working import work

S3 = pytest.mark.parametrize(("store_url", "redis_kind"), [("s3", "valkey")], indirect=["store_url"])
LOCAL = pytest.mark.parametrize(("store_url", "redis_kind"), [("local", "redis")], indirect=["store_url"])


@pytest.fixture
def gateways(tmp_path, store_url, redis_url):
    """Both processes, started at the same time."""
    both = [GatewayProcess(tmp_path / name, store_url, redis_url) for name in ("one", "two")]
    threads = [threading.Thread(target=gateway.start) for gateway in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    yield both
    for gateway in both:
        gateway.end(signal.SIGKILL)


@pytest.fixture
def clients(gateways):
    with Client(gateways[0].address) as one, Client(gateways[1].address) as two:
        yield one, two


@S3
def test_a_job_is_created_on_one_steered_on_the_other_and_watched_on_both(
    clients, tmp_path, store_url, redis_url
):
    one, two = clients
    store, queue = open_store(store_url), Queue(redis_url)
    one.create_job("shoes", caption_file(tmp_path, 20), preset="tiny", captions_per_shard=2)
    planned(two, "shoes")
    seen = {}

    def watch(client, name):
        seen[name] = [job.state for job in client.watch_job("shoes", timeout=60)]

    watches = [threading.Thread(target=watch, args=(client, n)) for n, client in enumerate(clients)]
    for thread in watches:
        thread.start()
    assert two.pause_job("shoes").state is JobState.PAUSED
    assert one.get_job("shoes").state is JobState.PAUSED
    assert queue.lease("w", 60) is None
    assert one.resume_job("shoes").state is JobState.RUNNING
    assert len(work(store, queue)) == 10
    for thread in watches:
        thread.join(60)
    assert seen[0][-1] is seen[1][-1] is JobState.SUCCEEDED
    assert [shard.number for shard in two.list_shards("shoes", "done")] == list(range(10))
    one.delete_job("shoes", delete_data=True)
    for client in clients:
        with pytest.raises(NotFound):
            client.get_job("shoes")
        assert list(client.list_jobs()) == []
    queue.close()


@S3
def test_one_request_sent_to_both_at_once_gives_one_job(clients, tmp_path, store_url):
    path = caption_file(tmp_path, 60)
    start = threading.Barrier(8)
    jobs, errors = [], []

    def create(number):
        start.wait()
        try:
            jobs.append(
                clients[number % 2].create_job(
                    "shoes", path, preset="tiny", captions_per_shard=2, request_id="r-1"
                )
            )
        except AlreadyExists as error:
            errors.append(error)

    threads = [threading.Thread(target=create, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert len({(job.name, job.create_time) for job in jobs}) == 1
    assert planned(clients[1], "shoes").counts.shards == 30
    shards = planned_captions(store_url, "shoes")
    assert [text for shard in shards for _, text in shard] == path.read_text().splitlines()


@LOCAL
def test_different_requests_for_one_name_at_once_have_one_winner(clients, tmp_path):
    path = caption_file(tmp_path, 10)
    start = threading.Barrier(6)
    won, lost = [], []

    def create(seed):
        start.wait()
        try:
            won.append(clients[seed % 2].create_job("shoes", path, preset="tiny", seed=seed).seed)
        except AlreadyExists as error:
            lost.append(error.field)

    threads = [threading.Thread(target=create, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1
    assert lost == ["seed"] * 5
    assert clients[0].get_job("shoes").seed == clients[1].get_job("shoes").seed == won[0]


@LOCAL
def test_when_one_dies_the_other_plans_on_and_clients_go_on_there(clients, gateways, tmp_path, store_url):
    one, two = clients
    one.create_job("shoes", caption_file(tmp_path, 3000), preset="tiny", captions_per_shard=2)
    store = open_store(store_url)
    wait_for(two, "shoes", lambda job: job.counts.shards > 20)
    gateways[0].end(signal.SIGKILL)
    job = planned(two, "shoes", 90)
    assert (job.state, job.counts.shards) == (JobState.RUNNING, 1500)
    assert sum(1 for _ in store.list(captions_prefix("shoes"))) == 1500
