"""The gateway as a real process: jobs created, planned, listed, watched and cancelled over gRPC."""

import asyncio
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import grpc
import pytest
import redis
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha.proto_reflection_descriptor_database import ProtoReflectionDescriptorDatabase

from services.gateway.request_ids import claim_request
from stablerep.client import AsyncClient, Client, Job, JobState
from stablerep.errors import AlreadyExists, InvalidInput, NotFound, Unavailable
from stablerep.queue.client import Queue
from stablerep.shards import read_dataset
from stablerep.storage import open_store
from stablerep.testing.gateway import GatewayProcess
from stablerep.testing.servers import RedisServer
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc
from tests.gateways import caption_file, lease_all, planned, planned_captions

SERVICE = "stablerep.v1.GenerationService"
LOCAL = pytest.mark.parametrize("store_url", ["local"], indirect=True)
"""For tests that would prove nothing more on a second store."""


def test_uploaded_captions_become_a_planned_job(client: Client, store_url: str, tmp_path: Path) -> None:
    path = caption_file(tmp_path, 70)
    job = client.create_job("shoes", path, preset="tiny", recipe={"steps": 5}, seed=7, priority=3)
    assert (job.name, job.dataset, job.seed, job.priority) == ("jobs/shoes", "shoes", 7, 3)
    assert job.recipe["steps"] == 5
    assert job.recipe["model"] == "builtin:fashion"
    assert len(job.recipe["digest"]) == 64
    assert job.source["upload_id"]
    job = planned(client, job.name)
    assert job.state is JobState.RUNNING
    assert (job.counts.shards, job.counts.pending, job.counts.captions) == (3, 3, 70)
    assert job.caption_report["lines"] == job.caption_report["captions"] == 70
    assert job.create_time is not None
    assert job.end_time is None
    shards = planned_captions(store_url, "shoes")
    assert [len(shard) for shard in shards] == [32, 32, 6]
    assert [text for shard in shards for _, text in shard] == path.read_text().splitlines()
    assert job.dataset_url.rstrip("/") == f"{open_store(store_url).url.rstrip('/')}/datasets/shoes"
    assert read_dataset(open_store(store_url), "shoes").recipe_digest == job.recipe["digest"]


def test_captions_in_the_store_are_named_by_key_or_url(client: Client, store_url: str) -> None:
    store = open_store(store_url)
    store.put("sources/some captions.tsv", b"a red shoe\thttp://x/1.jpg\na blue bag\thttp://x/2.jpg\n")
    by_key = client.create_job("by-key", "store:sources/some captions.tsv", preset="tiny")
    url = f"{store.url.rstrip('/')}/sources/some captions.tsv"
    by_url = client.create_job("by-url", url, preset="tiny")
    assert by_key.source == by_url.source == {"uri": "sources/some captions.tsv"}
    for name in (by_key.name, by_url.name):
        assert planned(client, name).counts.captions == 2


def test_creating_twice_gives_one_job(client: Client, store_url: str, tmp_path: Path) -> None:
    path = caption_file(tmp_path, 40)
    arguments = {"preset": "tiny", "recipe": {"steps": "5"}, "captions_per_shard": 10}
    first = client.create_job("twice", path, request_id="r1", **arguments)
    planned(client, first.name)
    for request_id in ("r1", "", "r2"):
        again = client.create_job("twice", path, request_id=request_id, **arguments)
        assert (again.name, again.create_time) == (first.name, first.create_time)
    time.sleep(1)
    assert client.get_job("twice").counts.shards == 4
    assert [job.name for job in client.list_jobs()] == ["jobs/twice"]


@LOCAL
def test_another_job_of_that_name_is_told_what_differs(
    client: Client, store_url: str, tmp_path: Path
) -> None:
    path = caption_file(tmp_path, 40)
    client.create_job("taken", path, preset="tiny", seed=1)
    other = caption_file(tmp_path, 41, "other.txt")
    for field, change in {
        "seed": {"seed": 2},
        "recipe.steps": {"recipe": {"steps": 3}},
        "captions_per_shard": {"captions_per_shard": 7},
        "source": {"captions": other},
    }.items():
        with pytest.raises(AlreadyExists) as caught:
            client.create_job("taken", **({"captions": path, "preset": "tiny", "seed": 1} | change))
        assert caught.value.field.startswith(field)
        assert field.split(".")[-1] in str(caught.value)


def test_a_request_id_belongs_to_one_request(client: Client, store_url: str) -> None:
    store = open_store(store_url)
    store.put("captions.txt", b"a red shoe\na blue bag\n")

    def create(dataset: str, request_id: str, seed: int = 0) -> Job:
        return client.create_job(
            dataset, "store:captions.txt", preset="tiny", seed=seed, request_id=request_id
        )

    first = create("once", "2024-01:a")
    planned(client, first.name)
    for dataset, seed in (("once", 1), ("other", 0)):
        with pytest.raises(AlreadyExists, match="once") as caught:
            create(dataset, "2024-01:a", seed)
        assert caught.value.field == "request_id"
    assert [job.name for job in client.list_jobs()] == ["jobs/once"]
    store.delete("captions.txt")  # a late retry finds the job all the same
    again = create("once", "2024-01:a")
    assert (again.name, again.create_time) == (first.name, first.create_time)
    with pytest.raises(InvalidInput):
        create("once", "another-id")


@LOCAL
def test_a_claim_whose_gateway_died_before_the_job_is_taken_up(
    gateway: GatewayProcess, client: Client, store_url: str
) -> None:
    store = open_store(store_url)
    store.put("captions.txt", b"a red shoe\n")
    request = pb.CreateJobRequest(
        dataset="died", preset="tiny", source=pb.CaptionSource(uri="captions.txt"), request_id="r1"
    )
    claim_request(store, request)
    with grpc.insecure_channel(gateway.address) as channel:
        stub = rpc.GenerationServiceStub(channel)
        assert stub.CreateJob(request).name == "jobs/died"
        request.request_id = ""
        assert stub.CreateJob(request).name == "jobs/died"
    assert [info.key for info in store.list("requests/")] == ["requests/r1.json"]


def test_watch_sends_changes_and_ends_with_the_job(
    client: Client, redis_url: str, store_url: str, tmp_path: Path
) -> None:
    job = client.create_job("watched", caption_file(tmp_path, 30), preset="tiny", captions_per_shard=10)
    planned(client, job.name)
    watching = client.watch_job(job.name)
    assert next(watching).counts.done == 0
    queue = Queue(redis_url)
    lease = queue.lease("tester", 60)
    assert lease is not None
    assert next(watching).counts.leased == 1
    queue.complete(lease, groups=10, images=40, skipped=0)
    job = next(watching)
    assert (job.counts.done, job.counts.groups, job.counts.images) == (1, 10, 40)
    assert job.progress == pytest.approx(1 / 3)
    queue.close()
    lease_all(redis_url)
    *_, last = watching
    assert (last.state, last.progress, last.counts.done) == (JobState.SUCCEEDED, 1.0, 3)
    assert last.end_time is not None


@LOCAL
def test_watch_ends_when_the_job_is_cancelled(client: Client, tmp_path: Path) -> None:
    job = client.create_job("cancelled", caption_file(tmp_path, 30), preset="tiny")
    planned(client, job.name)
    seen: list[JobState] = []
    watcher = threading.Thread(target=lambda: seen.extend(j.state for j in client.watch_job(job.name)))
    watcher.start()
    time.sleep(0.5)
    assert client.cancel_job(job.name).state is JobState.CANCELLED
    watcher.join(10)
    assert not watcher.is_alive()
    assert seen[0] is JobState.RUNNING
    assert seen[-1] is JobState.CANCELLED
    assert client.cancel_job(job.name).state is JobState.CANCELLED


@LOCAL
def test_watch_outlives_a_restart_of_the_gateway(
    gateway: GatewayProcess, client: Client, tmp_path: Path
) -> None:
    job = client.create_job("outlived", caption_file(tmp_path, 30), preset="tiny")
    planned(client, job.name)
    watching = client.watch_job(job.name)
    assert next(watching).state is JobState.RUNNING
    begun = time.monotonic()
    assert gateway.end(signal.SIGTERM) == 0
    assert time.monotonic() - begun < 4, "a watch must not hold up the stop"
    gateway.start()
    client.cancel_job(job.name)
    *_, last = watching
    assert last.state is JobState.CANCELLED


@LOCAL
def test_gateway_stops_asking_the_queue_once_a_watcher_is_gone(
    gateway: GatewayProcess, client: Client, redis_url: str, tmp_path: Path
) -> None:
    job = client.create_job("left", caption_file(tmp_path, 30), preset="tiny")
    planned(client, job.name)
    server = redis.Redis.from_url(redis_url)

    def counted_per_second() -> int:
        """BITCOUNT is what only a look at one job's status needs."""
        server.config_resetstat()
        time.sleep(1.5)
        return int(server.info("commandstats").get("cmdstat_bitcount", {"calls": 0})["calls"])

    with grpc.insecure_channel(gateway.address) as channel:
        watch = rpc.GenerationServiceStub(channel).WatchJob(pb.WatchJobRequest(name=job.name))
        next(watch)
        assert counted_per_second() >= 3
        watch.cancel()
        time.sleep(0.7)
        assert counted_per_second() == 0
    server.close()


@LOCAL
def test_jobs_are_listed_by_name_in_pages(client: Client, gateway: GatewayProcess, store_url: str) -> None:
    open_store(store_url).put("captions.txt", b"a red shoe\n")
    names = [f"set-{number:02d}" for number in range(7)]
    for name in random.Random(0).sample(names, len(names)):
        client.create_job(name, "store:captions.txt", preset="tiny")
    assert [job.dataset for job in client.list_jobs(page_size=3)] == names
    with grpc.insecure_channel(gateway.address) as channel:
        stub = rpc.GenerationServiceStub(channel)
        page = stub.ListJobs(pb.ListJobsRequest(page_size=5))
        assert [job.name for job in page.jobs] == [f"jobs/{name}" for name in names[:5]]
        page = stub.ListJobs(pb.ListJobsRequest(page_size=5, page_token=page.next_page_token))
        assert ([job.name for job in page.jobs], page.next_page_token) == (["jobs/set-05", "jobs/set-06"], "")
        assert len(stub.ListJobs(pb.ListJobsRequest(page_size=-4)).jobs) == 1
        assert len(stub.ListJobs(pb.ListJobsRequest(page_size=10**6)).jobs) == 7


@LOCAL
def test_health_and_reflection_tell_what_is_served(gateway: GatewayProcess) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for name in ("", SERVICE):
            answer = health.Check(health_pb2.HealthCheckRequest(service=name))
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
        with pytest.raises(grpc.RpcError) as caught:
            health.Check(health_pb2.HealthCheckRequest(service="stablerep.v1.Nothing"))
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND
        database = ProtoReflectionDescriptorDatabase(channel)
        assert {SERVICE, "grpc.health.v1.Health"} <= set(database.get_services())
        described = database.FindFileContainingSymbol(SERVICE)
        assert "CreateJob" in {method.name for method in described.service[0].method}


@LOCAL
def test_health_says_not_serving_before_the_process_ends(gateway: GatewayProcess) -> None:
    with grpc.insecure_channel(gateway.address) as channel:
        request = health_pb2.HealthCheckRequest(service=SERVICE)
        watch = health_pb2_grpc.HealthStub(channel).Watch(request)
        assert next(watch).status == health_pb2.HealthCheckResponse.SERVING
        stopping = threading.Thread(target=gateway.end, args=(signal.SIGTERM,))
        stopping.start()
        assert next(watch).status == health_pb2.HealthCheckResponse.NOT_SERVING
        watch.cancel()
        stopping.join()


@LOCAL
def test_without_a_queue_server_calls_are_unavailable_and_come_back_with_it(
    gateway: GatewayProcess, client: Client, redis_server: RedisServer, tmp_path: Path
) -> None:
    job = client.create_job("queue-away", caption_file(tmp_path, 30), preset="tiny")
    planned(client, job.name)
    redis_server.kill()
    with Client(gateway.address, timeout=20) as hasty, pytest.raises(Unavailable):
        hasty.get_job(job.name)
    redis_server.start()
    assert client.get_job(job.name).counts.shards == 1


@LOCAL
def test_async_client_does_the_same(gateway: GatewayProcess, store_url: str, tmp_path: Path) -> None:
    path = caption_file(tmp_path, 40)

    async def use() -> list[JobState]:
        async with AsyncClient(gateway.address) as client:
            job = await client.create_job("awaited", path, preset="tiny", captions_per_shard=10)
            assert [listed.name async for listed in client.list_jobs()] == [job.name]
            with pytest.raises(NotFound):
                await client.get_job("unknown")
            with pytest.raises(InvalidInput) as caught:
                await client.create_job("awaited2", path, preset="nope")
            assert caught.value.field == "preset"
            states = []
            async for seen in client.watch_job(job.name):
                states.append(seen.state)
                if seen.state is JobState.RUNNING:
                    await client.cancel_job(job.name)
            return states

    states = asyncio.run(use())
    assert states[-1] is JobState.CANCELLED
    assert [len(shard) for shard in planned_captions(store_url, "awaited")] == [10] * 4


def test_client_without_a_gateway_says_so(tmp_path: Path) -> None:
    with Client("127.0.0.1:1", timeout=2) as client, pytest.raises(Unavailable):
        client.get_job("any")
    with Client("127.0.0.1:1") as client, pytest.raises(InvalidInput) as caught:
        client.create_job("any", tmp_path / "missing.txt")
    assert caught.value.field == "captions"


def test_wrong_settings_end_the_process_with_status_2(tmp_path: Path) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "services.gateway", "--set", "gateway.adress=x"],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert ended.returncode == 2
    assert "gateway.address" in ended.stderr
    assert "Traceback" not in ended.stderr
