"""Workers that die, stall and are stopped at bad moments: each job ends whole, each group counted once."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from stablerep.client.generator import GeneratorClient
from stablerep.config.recipe import Recipe
from stablerep.jobs.control import cancel_job
from stablerep.queue.client import Queue
from stablerep.queue.states import JobState
from stablerep.shards.layout import index_key
from stablerep.storage import Store, open_store
from stablerep.testing.servers import RedisServer, free_port
from stablerep.testing.worker import WorkerProcess, plan_job
from tests.generators import assert_whole, generating, make_recipe, make_shards, until
from tests.pipelines import make_random_pipeline
from tests.tools import redis_program

StartWorker = Callable[..., WorkerProcess]
Shards = list[list[tuple[int, str]]]
KILLS = 20
IMAGES = 2


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_pipeline(tmp_path_factory.mktemp("faults") / "pipeline")


@dataclass
class Hubless:
    """A worker whose job's model would be on a hub that does not answer."""

    process: "subprocess.Popen[bytes]"
    queue: Queue
    log: Path
    announcement: Path


@pytest.fixture(scope="module", autouse=True)
def hubless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hubless]:
    """Begun before all tests: it waits most of the time, and so may beside them."""
    folder = tmp_path_factory.mktemp("hubless")
    server = RedisServer(redis_program("valkey"), folder)
    store, queue = open_store(folder / "store"), Queue(server.url)
    plan_job(store, queue, "shoes", small_recipe(Path("nobody-here/no-such-model")), make_shards(2, 2))
    environment = {
        **os.environ,
        "HF_HUB_OFFLINE": "0",
        "HF_ENDPOINT": f"http://127.0.0.1:{free_port()}",
        "HF_HOME": str(folder / "hub"),
        "STABLEREP_STORE_URL": store.url,
        "STABLEREP_REDIS_URL": server.url,
        "STABLEREP_GENERATOR__ANNOUNCE": str(folder / "address.json"),
    }
    command = [sys.executable, "-m", "services.generator", "--set", "generator.device=cpu"]
    with (folder / "log").open("wb") as out:
        process = subprocess.Popen(command, env=environment, stderr=out)
    yield Hubless(process, queue, folder / "log", folder / "address.json")
    process.kill()
    process.wait()
    queue.close()
    server.stop()


@pytest.fixture(scope="module", autouse=True)
def redelivery(tmp_path_factory: pytest.TempPathFactory, pipeline: Path) -> Iterator["Future[float]"]:
    """Seconds from a kill to another worker's lease; begun before all tests, as it waits for a minute."""
    folder = tmp_path_factory.mktemp("redelivery")
    with ThreadPoolExecutor(1) as pool:
        yield pool.submit(measure_redelivery, folder, pipeline)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def start(tmp_path: Path, store: Store, redis_url: str) -> Iterator[StartWorker]:
    """Starts workers with leases of 3 s, or with the settings given; all are gone after the test."""
    workers: list[WorkerProcess] = []

    def start(**settings: object) -> WorkerProcess:
        settings = settings or {"lease_seconds": 3, "poll_seconds": 0.05, "device": "cpu"}
        folder = tmp_path / f"worker-{len(workers)}"
        workers.append(WorkerProcess(folder, store_url=store.url, redis_url=redis_url, **settings))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


def small_recipe(pipeline: Path, **changes: object) -> Recipe:
    return make_recipe(pipeline, **({"images_per_caption": IMAGES, "batch_images": 4} | changes))


def measure_redelivery(folder: Path, pipeline: Path) -> float:
    """With two workers of default settings; the job ends whole."""
    server = RedisServer(redis_program("valkey"), folder)
    store, queue = open_store(folder / "store"), Queue(server.url)
    shards = make_shards(1, 12)
    plan_job(store, queue, "shoes", small_recipe(pipeline, steps=40), shards)
    urls = {"store_url": store.url, "redis_url": server.url}
    workers = [WorkerProcess(folder / f"worker-{n}", device="cpu", **urls) for n in range(2)]
    try:
        until(lambda: queue.counts("shoes").leased == 1, *workers)
        clients = [GeneratorClient(worker.address) for worker in workers]
        holding = 0 if clients[0].status().shard else 1
        workers[holding].send(signal.SIGKILL)
        seconds = until(lambda: clients[1 - holding].status().shard, *workers, seconds=95)
        until(lambda: queue.state("shoes").final, *workers)
        assert_whole(store, queue, "shoes", shards, IMAGES)
    finally:
        for worker in workers:
            worker.end()
        queue.close()
        server.stop()
    return seconds


def test_workers_killed_twenty_times_in_one_job_lose_and_double_nothing(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    chance = random.Random(4)
    shards = make_shards(1000, 6)
    planned = 20
    plan_job(store, queue, "shoes", small_recipe(pipeline, steps=8), shards, planned=planned)
    alive = [start(), start()]
    for _ in range(KILLS):
        assert alive[0].address  # it serves: what is killed is at work, not on its way up
        # Any moment of a shard's half a second: fetching, drawing, encoding, uploading, completing.
        time.sleep(chance.uniform(0.0, 1.0))
        victim = alive.pop(0)
        victim.send(signal.SIGKILL)
        assert victim.wait() == -signal.SIGKILL
        alive.append(start())
        planned = max(planned, min(len(shards), queue.counts("shoes").done + 20))  # never without work
        queue.set_planned("shoes", planned)
    assert queue.finish_planning("shoes") is JobState.RUNNING
    until(lambda: queue.state("shoes").final, *alive)
    assert_whole(store, queue, "shoes", shards[:planned], IMAGES)


def test_term_in_mid_shard_hands_all_leases_back_and_another_worker_goes_on_at_once(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    shards = make_shards(4, 12)
    plan_job(store, queue, "shoes", small_recipe(pipeline, steps=30), shards)
    first = start(lease_seconds=600, grace_seconds=0.2, poll_seconds=0.05, device="cpu")
    until(lambda: queue.counts("shoes").leased >= 2, first)  # one on the GPU, one fetched or uploaded
    first.send(signal.SIGTERM)
    assert first.wait(15) == 0
    counts = queue.counts("shoes")
    assert (counts.leased, counts.pending + counts.done) == (0, 4)
    assert first.text().count("released:") >= 1
    assert queue.failures("shoes") == {}
    second = start(lease_seconds=600, poll_seconds=0.05, device="cpu")
    until(lambda: queue.state("shoes").final, second)  # well within the first worker's leases
    assert_whole(store, queue, "shoes", shards, IMAGES)


def test_cancel_is_noticed_in_mid_shard_within_seconds_with_default_settings(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    plan_job(store, queue, "long", small_recipe(pipeline, steps=1000), make_shards(2, 50))
    worker = start(device="cpu")
    until(generating(worker), worker)
    cancel_job(store, queue, "long")
    assert until(lambda: "dropped: job cancelled" in worker.text(), worker) < 6
    until(lambda: queue.counts("long").leased == 0, worker)
    assert not store.exists(index_key("long", 0))
    assert GeneratorClient(worker.address).status().shard == ""


def test_two_living_workers_handed_the_same_shard_leave_one_tar(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    """The second takes every lease that was not renewed for half a second, and the first renews each 2 s."""
    shards = make_shards(1, 12)
    first = start(lease_seconds=600, poll_seconds=0.05, device="cpu")
    second = start(lease_seconds=0.5, poll_seconds=0.05, device="cpu", batch_limit=3)
    assert second.address
    second.send(signal.SIGSTOP)
    plan_job(store, queue, "shoes", small_recipe(pipeline, steps=150), shards)
    until(generating(first), first)
    second.send(signal.SIGCONT)
    until(lambda: queue.state("shoes").final, first, second)
    assert "dropped: lease lost" in first.text(), "the first was done before it could lose its lease"
    assert_whole(store, queue, "shoes", shards, IMAGES)
    assert GeneratorClient(second.address).status().shards_done == 1


def test_queue_server_killed_and_restarted_in_mid_shard_costs_time_and_no_shard(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path, redis_server: RedisServer
) -> None:
    shards = make_shards(6, 8)
    plan_job(store, queue, "shoes", small_recipe(pipeline, steps=20), shards)
    workers = [start(), start()]
    until(lambda: queue.counts("shoes").done >= 1, *workers)
    time.sleep(1.2)  # the server forces its file to disk every second
    for seconds in (4, 0.5):  # longer than a lease, and shorter
        redis_server.kill()
        time.sleep(seconds)
        redis_server.restart()
        time.sleep(1.2)
    until(lambda: queue.state("shoes").final, *workers)
    assert_whole(store, queue, "shoes", shards, IMAGES)
    assert queue.dead("shoes") == {}


def test_redelivery_after_a_kill_with_default_settings(
    redelivery: "Future[float]", capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = redelivery.result()
    with capsys.disabled():
        print(f"\nkill -9 to redelivery with default settings: {seconds:.1f} s")
    assert 30 < seconds <= 90


def test_hub_that_is_away_costs_no_attempt_and_a_load_does_not_keep_a_worker_from_ending(
    hubless: "Hubless",
) -> None:
    """A load takes 20 s here, for the hub is asked again and again; its shards go back each time."""
    until(lambda: "released: the hub that should have nobody-here" in hubless.log.read_text())
    address = json.loads(hubless.announcement.read_text())["address"]
    try:
        until(lambda: health_of(address) == "NOT_SERVING")
        client = GeneratorClient(address)
        until(lambda: client.status().state == "LOADING")
    except grpc.RpcError as error:
        error.add_note(f"exit status {hubless.process.poll()}; log:\n{hubless.log.read_text()[-4000:]}")
        raise
    hubless.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    assert hubless.process.wait(30) == 0
    assert time.monotonic() - began < 8
    counts = hubless.queue.counts("shoes")
    assert (counts.pending, counts.leased, counts.dead) == (2, 0, 0)
    assert hubless.queue.failures("shoes") == {}


def test_worker_is_ready_while_its_pipeline_is_loaded_and_the_queue_answers(
    start: StartWorker, redis_server: RedisServer
) -> None:
    redis_server.kill()
    worker = start(device="cpu", preload="tiny", poll_seconds=0.05)
    client = GeneratorClient(worker.address)
    assert health_of(worker.address) == "NOT_SERVING"
    until(lambda: client.status().recipe_digest, worker)  # loaded, without a queue
    assert health_of(worker.address) == "NOT_SERVING"
    redis_server.start()
    until(lambda: health_of(worker.address) == "SERVING", worker)
    redis_server.kill()
    until(lambda: health_of(worker.address) == "NOT_SERVING", worker)
    redis_server.start()
    until(lambda: health_of(worker.address) == "SERVING", worker)
    client.drain()
    until(lambda: worker.wait(0) == 0, worker)


def health_of(address: str) -> str:
    with grpc.insecure_channel(address) as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        answer = stub.Check(health_pb2.HealthCheckRequest(), timeout=60)
    return str(health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status))
