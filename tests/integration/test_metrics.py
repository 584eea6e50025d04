"""A real gateway and a real worker, scraped: they count what the job made; probes and logs are true."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from stablerep.client import Client, Job, JobState
from stablerep.testing.gateway import GatewayProcess
from stablerep.testing.servers import RedisServer
from stablerep.testing.worker import WorkerProcess
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc
from tests.gateways import caption_file, wait_for
from tests.promql import readings
from tests.scrape import get, metrics_address, scrape, value, wait_until
from tests.tools import redis_program
from tests.unit.deploy.test_dashboard import EXPRESSIONS

SERVICE = "stablerep.v1.GenerationService"
CAPTIONS, SHARD = 10, 4
SHARDS = 3
RECIPE = {"steps": 2, "images_per_caption": 2, "batch_images": 4}


class Service:
    """Gateway, worker and queue of this module's tests, and where the first two tell about themselves."""

    def __init__(self, folder: Path) -> None:
        self.redis = RedisServer(redis_program("valkey"), _made(folder / "redis"))
        self.store_url = (folder / "store").as_uri()
        self.gateway = GatewayProcess(
            folder / "gateway",
            self.store_url,
            self.redis.url,
            STABLEREP_GATEWAY__METRICS_ADDRESS="127.0.0.1:0",
        )
        self.gateway.start()
        self.worker = WorkerProcess(
            folder / "worker",
            store_url=self.store_url,
            redis_url=self.redis.url,
            device="cpu",
            metrics_address="127.0.0.1:0",
            preload="tiny",
            poll_seconds=0.05,
        )
        self.of_gateway = metrics_address(folder / "gateway/gateway.json")
        assert self.worker.address
        self.of_worker = metrics_address(folder / "worker/address.json")

    def end(self) -> None:
        self.worker.end()
        self.gateway.__exit__(None, None, None)
        self.redis.stop()


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("metrics")


@pytest.fixture(scope="module")
def service(folder: Path) -> Iterator[Service]:
    service = Service(folder)
    yield service
    service.end()


@pytest.fixture(scope="module")
def readiness(service: Service) -> list[tuple[int, str]]:
    """Each answer of the worker's /readyz from its start until it is ready."""
    answers: list[tuple[int, str]] = []

    def ready() -> bool:
        answers.append(get(service.of_worker, "/readyz"))
        return answers[-1][0] == 200

    wait_until(ready, 120)
    return answers


@pytest.fixture(scope="module")
def job(service: Service, readiness: list[tuple[int, str]], folder: Path) -> Job:
    """A small job, once it is done."""
    with Client(service.gateway.address) as client:
        made = client.create_job(
            "shoes",
            caption_file(folder, CAPTIONS),
            preset="tiny",
            recipe=RECIPE,
            captions_per_shard=SHARD,
        )
        return wait_for(client, made.name, lambda job: job.state is JobState.SUCCEEDED, 120)


def test_a_worker_is_ready_once_its_pipeline_is_loaded(readiness: list[tuple[int, str]]) -> None:
    status, text = readiness[0]
    assert status == 503
    assert "load" in text
    assert readiness[-1] == (200, "ok\n")


def test_a_workers_counters_are_what_the_job_made(service: Service, job: Job) -> None:
    assert (job.counts.groups, job.counts.images) == (CAPTIONS, 2 * CAPTIONS)
    # The queue has the last shard's completion before the worker has counted it.
    wait_until(lambda: value(service.of_worker, "stablerep_shards_total", outcome="done") == SHARDS)
    told = scrape(service.of_worker)

    def number(name: str, **labels: str) -> float:
        return told[name, frozenset(labels.items())]

    assert number("stablerep_images_generated_total") == job.counts.images
    assert number("stablerep_groups_generated_total") == job.counts.groups
    assert number("stablerep_captions_skipped_total") == job.counts.skipped == 0
    for outcome in ("retry", "dead", "handed_back", "lost", "cancelled"):
        assert number("stablerep_shards_total", outcome=outcome) == 0
    assert number("stablerep_model_load_seconds_count") == 1
    assert number("stablerep_stage_seconds_count", stage="upload") == SHARDS
    for stage in ("text", "denoise", "decode", "encode"):
        assert number("stablerep_stage_seconds_count", stage=stage) > 0
        assert 0 < number("stablerep_stage_seconds_sum", stage=stage) < 60


def test_the_gateway_tells_the_queue_and_the_jobs(service: Service, job: Job) -> None:
    told = scrape(service.of_gateway)

    def number(name: str, **labels: str) -> float:
        return told[name, frozenset(labels.items())]

    assert (number("stablerep_queue_up"), number("stablerep_store_up")) == (1, 1)
    assert number("stablerep_queue_depth") == 0
    assert number("stablerep_jobs", state="SUCCEEDED") == 1
    assert number("stablerep_jobs", state="RUNNING") == 0
    assert number("stablerep_queue_planned_shards_total") == SHARDS
    assert number("stablerep_queue_workers", state="idle") == 1
    assert number("stablerep_queue_dead_shards") == 0
    assert number("stablerep_queue_failures_total", kind="error") == 0


def test_a_paused_job_is_no_backlog_and_a_resumed_one_is(service: Service, job: Job, folder: Path) -> None:
    with Client(service.gateway.address) as client:
        made = client.create_job(
            "bags",
            caption_file(folder, 200),
            preset="tiny",
            recipe=RECIPE | {"steps": 40},
            captions_per_shard=10,
        )
        wait_until(lambda: value(service.of_gateway, "stablerep_queue_depth") > 0)
        wait_until(lambda: value(service.of_gateway, "stablerep_queue_workers", state="busy") == 1)
        wait_until(
            lambda: value(service.of_gateway, "stablerep_job_shards", dataset="bags", state="leased") > 0
        )
        client.pause_job(made.name)
        wait_until(lambda: value(service.of_gateway, "stablerep_queue_depth") == 0)
        waiting = {"job_state": "PAUSED", "shard_state": "waiting"}
        assert value(service.of_gateway, "stablerep_queue_shards", **waiting) > 0
        client.cancel_job(made.name)
        wait_until(lambda: value(service.of_gateway, "stablerep_jobs", state="CANCELLED") == 1)
    wait_until(lambda: value(service.of_gateway, "stablerep_queue_workers", state="idle") == 1)


def test_calls_are_counted_by_the_code_that_the_client_gets(service: Service, job: Job) -> None:
    def handled(method: str, code: str) -> float:
        kind = {"grpc_service": SERVICE, "grpc_type": "unary"}
        return value(
            service.of_gateway, "grpc_server_handled_total", grpc_method=method, grpc_code=code, **kind
        )

    assert handled("CreateJob", "OK") >= 1
    before = handled("GetJob", "INVALID_ARGUMENT"), handled("GetJob", "NOT_FOUND")
    with grpc.insecure_channel(service.gateway.address) as channel:
        stub = rpc.GenerationServiceStub(channel)
        for name in ("no name of a job", "jobs/nobody"):
            with pytest.raises(grpc.RpcError):
                stub.GetJob(pb.GetJobRequest(name=name))
    # An error is on its way to the client a moment before it is counted.
    wait_until(lambda: handled("GetJob", "INVALID_ARGUMENT") == before[0] + 1)
    wait_until(lambda: handled("GetJob", "NOT_FOUND") == before[1] + 1)


def test_a_call_of_a_method_that_is_not_there_is_counted_as_unknown(service: Service) -> None:
    with (
        grpc.insecure_channel(service.gateway.address) as channel,
        pytest.raises(grpc.RpcError),
    ):
        channel.unary_unary(f"/{SERVICE}/Guess")(b"")
    labels = {"grpc_service": "unknown", "grpc_method": "unknown", "grpc_type": "unary"}
    wait_until(
        lambda: (
            value(service.of_gateway, "grpc_server_handled_total", grpc_code="UNIMPLEMENTED", **labels) >= 1
        )
    )
    assert "Guess" not in get(service.of_gateway, "/metrics")[1]


def test_dashboard_and_alerts_read_what_these_processes_serve(service: Service, job: Job) -> None:
    names = {name for address in (service.of_gateway, service.of_worker) for name, _ in scrape(address)}
    # Series of jobs and runs that are not over, of which there is none now; the trainer has its own test.
    elsewhere = {"up", "stablerep_job_shards", "stablerep_run_restarts"}
    wanted = {reading.metric for expression in EXPRESSIONS for reading in readings(expression)}
    missing = {name for name in wanted - names - elsewhere if not name.startswith("stablerep_training_")}
    assert not missing


def log_lines(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_every_line_of_the_logs_is_json_and_names_what_it_is_about(service: Service, job: Job) -> None:
    of_worker = log_lines(service.worker.text())
    made = [line for line in of_worker if "images/s" in line["event"] and line.get("job") == "shoes"]
    assert sorted(line["shard"] for line in made) == list(range(SHARDS))
    of_gateway = log_lines(service.gateway.log)
    planning = [line for line in of_gateway if line.get("job") == "shoes" and "method" not in line]
    assert "planning ended" in [line["event"] for line in planning]
    created = [line for line in of_gateway if line.get("method") == f"/{SERVICE}/CreateJob"]
    assert created
    assert {line["caller"] for line in created} == {"anonymous"}
    assert {"timestamp", "level", "logger", "event"} <= set(of_gateway[0])


def test_probes_tell_a_queue_that_is_away_and_that_it_came_back(service: Service, job: Job) -> None:
    addresses = (service.of_gateway, service.of_worker)
    service.redis.kill()
    for address in addresses:
        wait_until(lambda: get(address, "/readyz")[0] == 503, 30)  # noqa: B023 - called at once
        assert "Redis" in get(address, "/readyz")[1] or "queue" in get(address, "/readyz")[1]
        assert get(address, "/healthz") == (200, "ok\n")
    # What was measured just before the kill serves for a second.
    wait_until(lambda: value(service.of_gateway, "stablerep_queue_up") == 0, 10)
    assert "stablerep_queue_depth" not in get(service.of_gateway, "/metrics")[1].replace("# HELP", "")
    service.redis.start()
    for address in addresses:
        wait_until(lambda: get(address, "/readyz")[0] == 200, 60)  # noqa: B023
    wait_until(lambda: value(service.of_gateway, "stablerep_queue_up") == 1)
    assert value(service.of_gateway, "stablerep_jobs", state="SUCCEEDED") == 1


def test_other_paths_are_not_found_and_name_those_that_are(service: Service) -> None:
    status, text = get(service.of_gateway, "/")
    assert status == 404
    assert "/metrics" in text
