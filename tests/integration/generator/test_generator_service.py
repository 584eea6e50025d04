"""GeneratorService over gRPC, on a worker in its own process: previews, refusals, status, health, signals."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from stablerep.client.generator import GeneratorClient
from stablerep.config.recipe import load_preset
from stablerep.errors import InvalidInput, NotFound
from stablerep.generation import Generator
from stablerep.queue.client import Queue
from stablerep.queue.states import JobState
from stablerep.storage import open_store
from stablerep.testing.servers import RedisServer
from stablerep.testing.worker import WorkerProcess, plan_job
from stablerep.v1 import generator_pb2 as pb
from stablerep.v1 import generator_pb2_grpc as rpc
from tests.pipelines import make_random_pipeline
from tests.tools import redis_program

SERVICE = "stablerep.v1.GeneratorService"


@pytest.fixture(scope="module", autouse=True)
def models() -> Iterator[None]:
    """Lets previews name any folder, and a model of the hub that is not there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STABLEREP_GATEWAY__MODELS", "builtin:*,nobody-here/*,/*")
        yield


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_pipeline(tmp_path_factory.mktemp("service") / "pipeline")


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    server = RedisServer(redis_program("valkey"), tmp_path_factory.mktemp("redis"))
    yield server
    server.stop()


@pytest.fixture(scope="module")
def store_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("store")


@pytest.fixture(scope="module")
def worker(
    tmp_path_factory: pytest.TempPathFactory, redis: RedisServer, store_folder: Path
) -> Iterator[WorkerProcess]:
    """One worker for all tests but those that end it."""
    folder = tmp_path_factory.mktemp("workers") / "one"
    worker = WorkerProcess(
        folder, store_url=str(store_folder), redis_url=redis.url, device="cpu", poll_seconds=0.05
    )
    yield worker
    worker.end()


@pytest.fixture
def client(worker: WorkerProcess) -> Iterator[GeneratorClient]:
    with GeneratorClient(worker.address) as client:
        yield client


@pytest.fixture
def channel(worker: WorkerProcess) -> Iterator[grpc.Channel]:
    with grpc.insecure_channel(worker.address) as channel:
        yield channel


def overrides(pipeline: Path, **changes: object) -> dict[str, object]:
    return {"model": pipeline, "steps": 3, "images_per_caption": 3, "batch_images": 6} | changes


def test_preview_is_the_group_that_a_job_would_make(client: GeneratorClient, pipeline: Path) -> None:
    recipe = overrides(pipeline)
    images = client.preview("a red shoe", preset="tiny", recipe=recipe, seed=5)
    same = load_preset("tiny", {key: str(value) for key, value in recipe.items()}).recipe
    group = next(Generator(same, seed=5, device="cpu").generate(["a red shoe"]))
    assert tuple(images) == group.encoded
    assert client.status().recipe_digest == same.digest


def test_preview_is_served_in_the_middle_of_a_shard(
    client: GeneratorClient, pipeline: Path, redis: RedisServer, store_folder: Path
) -> None:
    queue = Queue(redis.url)
    settings = {key: str(value) for key, value in overrides(pipeline, steps=20).items()}
    recipe = load_preset("tiny", settings).recipe
    captions = [(index, "a grey boot") for index in range(300)]
    plan_job(open_store(store_folder), queue, "boots", recipe, [captions])
    try:
        _until(lambda: client.status().state == "GENERATING")
        assert client.preview("a red shoe", preset="tiny", recipe=overrides(pipeline), seed=5)
        status = client.status()
        assert (status.state, status.shard) == ("GENERATING", "jobs/boots/shards/0")
        assert queue.counts("boots").done == 0
    finally:
        queue.set_state("boots", JobState.CANCELLED)
        queue.close()
    _until(lambda: client.status().state == "IDLE")


def test_calls_are_answered_while_a_preview_is_made(client: GeneratorClient, pipeline: Path) -> None:
    done: list[int] = []

    def preview() -> None:
        slow = overrides(pipeline, steps=60, images_per_caption=36)
        done.append(len(client.preview("a red shoe", preset="tiny", recipe=slow)))

    thread = threading.Thread(target=preview)
    thread.start()
    _until(lambda: client.status().state == "GENERATING")
    before = time.monotonic()
    client.status()
    assert time.monotonic() - before < 2
    assert not done
    thread.join()
    assert done == [36]


@pytest.mark.parametrize(
    ("field", "request_"),
    [
        ("caption", pb.PreviewGroupRequest(caption="", preset="tiny")),
        ("caption", pb.PreviewGroupRequest(caption=" \n", preset="tiny")),
        ("caption", pb.PreviewGroupRequest(caption="x" * 1001, preset="tiny")),
        ("preset", pb.PreviewGroupRequest(caption="a shoe", preset="no-such-preset")),
        ("preset", pb.PreviewGroupRequest(caption="a shoe", preset="../../etc/passwd")),
        ("steps", pb.PreviewGroupRequest(caption="a shoe", preset="tiny", recipe={"steps": "0"})),
        ("steps", pb.PreviewGroupRequest(caption="a shoe", preset="tiny", recipe={"steps": "many"})),
        ("color", pb.PreviewGroupRequest(caption="a shoe", preset="tiny", recipe={"color": "red"})),
        ("save_size", pb.PreviewGroupRequest(caption="a shoe", preset="tiny", recipe={"save_size": "64"})),
        ("model", pb.PreviewGroupRequest(caption="a shoe", preset="tiny", recipe={"model": "builtin:no"})),
        ("model", pb.PreviewGroupRequest(caption="a shoe", preset="tiny", recipe={"model": "/etc"})),
    ],
)
def test_bad_request_is_refused_by_field(
    channel: grpc.Channel, field: str, request_: pb.PreviewGroupRequest
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        rpc.GeneratorServiceStub(channel).PreviewGroup(request_, timeout=60)
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert field in caught.value.details()
    assert "Traceback" not in caught.value.details()


def test_client_raises_the_librarys_errors(client: GeneratorClient, pipeline: Path) -> None:
    with pytest.raises(InvalidInput) as caught:
        client.preview("a shoe", preset="tiny", recipe={"guidance_scale": 51})
    assert caught.value.field == "guidance_scale"
    with pytest.raises(NotFound, match="nobody-here/no-such-model"):
        client.preview("a shoe", preset="tiny", recipe={"model": "nobody-here/no-such-model"})
    assert client.preview("a shoe", preset="tiny", recipe=overrides(pipeline))  # it goes on


def test_health_and_reflection(channel: grpc.Channel) -> None:
    health = health_pb2_grpc.HealthStub(channel)
    for name in ("", SERVICE):
        answer = health.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
        assert answer.status == health_pb2.HealthCheckResponse.SERVING
    requests = iter([reflection_pb2.ServerReflectionRequest(list_services="")])
    (answer,) = reflection_pb2_grpc.ServerReflectionStub(channel).ServerReflectionInfo(requests, timeout=60)
    assert SERVICE in {service.name for service in answer.list_services_response.service}


def test_status_of_an_idle_worker(client: GeneratorClient, worker: WorkerProcess) -> None:
    status = client.status()
    assert (status.state, status.shard) == ("IDLE", "")
    assert str(worker.pid) in status.worker


def test_command_announces_itself_and_ends_on_ctrl_c(tmp_path: Path, redis: RedisServer) -> None:
    environment = {
        **os.environ,
        "STABLEREP_STORE_URL": (tmp_path / "store").as_uri(),
        "STABLEREP_REDIS_URL": redis.url,
        "STABLEREP_GENERATOR__ANNOUNCE": str(tmp_path / "address.json"),
        "STABLEREP_GENERATOR__DEVICE": "cpu",
    }
    command = [sys.executable, "-m", "services.generator"]
    process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        _until((tmp_path / "address.json").exists)
        process.send_signal(signal.SIGINT)
        assert process.wait(240) == 0
    finally:
        process.kill()
        _, errors = process.communicate()
    assert "Traceback" not in errors


@pytest.mark.parametrize(
    ("field", "redis_url", "address"),
    [
        ("generator.address", "redis://127.0.0.1:1/0", "nonsense:99999"),
        ("redis_url", "ftp://here", "127.0.0.1:0"),
    ],
)
def test_wrong_settings_end_the_command_with_their_name(
    tmp_path: Path, field: str, redis_url: str, address: str
) -> None:
    worker = WorkerProcess(tmp_path / "worker", store_url=str(tmp_path), redis_url=redis_url, address=address)
    assert worker.wait() == 2
    assert field in worker.text()
    assert "Traceback" not in worker.text()


def _until(condition: Callable[[], bool], seconds: float = 240.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_several_workers_of_one_command_share_a_job_and_end_together(
    tmp_path: Path, redis_url: str, pipeline: Path
) -> None:
    queue, store = Queue(redis_url), open_store(tmp_path / "store")
    changes = {key: str(value) for key, value in overrides(pipeline).items()}
    shards = [[(n * 4 + i, "a red shoe") for i in range(4)] for n in range(12)]
    plan_job(store, queue, "shared", load_preset("tiny", changes).recipe, shards)
    environment = {
        **os.environ,
        "STABLEREP_STORE_URL": store.url,
        "STABLEREP_REDIS_URL": redis_url,
        "STABLEREP_GENERATOR__ANNOUNCE": str(tmp_path / "address.json"),
        "STABLEREP_GENERATOR__DEVICE": "cpu",
    }
    command = [sys.executable, "-m", "services.generator", "--workers", "2", "--set", "generator.in_flight=2"]
    process = subprocess.Popen(command, env=environment)
    try:
        files = [tmp_path / f"address-{number}.json" for number in range(2)]
        _until(lambda: all(file.exists() for file in files))
        clients = [GeneratorClient(json.loads(file.read_text())["address"]) for file in files]
        assert len({client.status().worker for client in clients}) == 2
        _until(lambda: queue.state("shared").final)
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        counts = queue.counts("shared")
        assert (counts.done, counts.groups, counts.leased) == (12, 48, 0)
    finally:
        process.kill()
        process.wait()
        queue.close()
