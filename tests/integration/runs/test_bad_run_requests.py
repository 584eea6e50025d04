"""Hundreds of generated bad requests for runs: each ends in a clear error and leaves the store as it was."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stablerep.config.names import DATASET_NAME, REQUEST_ID
from stablerep.runs.config import presets
from stablerep.testing.gateway import GatewayProcess
from stablerep.testing.servers import RedisServer
from stablerep.v1 import training_pb2 as pb
from stablerep.v1 import training_pb2_grpc as rpc
from tests.bad_requests import INT32, INT64, NASTY, changed
from tests.tools import redis_program
from tests.training import describe, write_stripes

REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
GOOD = {"steps": "3", "views_per_batch": "24", "method.images_per_caption": "3"}


def training(**fields: Any) -> pb.Training:
    return pb.Training(**({"preset": "demo", "datasets": ["stripes"], "config": GOOD} | fields))


_SETTINGS = [
    {"steps": "0"}, {"steps": "x"}, {"steps": "1e400"}, {"method.temperature": "nan"},
    {"views_per_batch": "7"}, {"run": "file:///etc/runs/x"}, {"datasets": "[/etc]"}, {"a.b.c": "1"},
    {"encoder.image_size": "-1"}, {"optimizer": "[1]"}, {"optimizer.lr": "!!python/object:os.system x"},
    {"seed": "-1"}, {"method.temperature": "-1"}, {"": "1"}, {"steps": "{"}, {"steps.x": "1"},
    {"method": "none"}, {"method.name": "[]"}, {"method": "{}"}, {"objective": "simclr"},
    {f"k{n}": "1" for n in range(201)}, {"drop_words": "x" * 20_000},
]  # fmt: skip
BAD_TRAININGS = st.one_of(
    st.sampled_from(_SETTINGS).map(lambda config: training(config=GOOD | config)),
    NASTY.filter(lambda text: text not in presets() and text).map(lambda text: training(preset=text)),
    NASTY.filter(lambda text: not DATASET_NAME.fullmatch(text.removeprefix("datasets/"))).map(
        lambda text: training(datasets=[text])
    ),
    st.sampled_from(
        [
            [],
            ["stripes", "nothing"],
            ["file:///etc/datasets/stripes"],
            ["s3://b/datasets/stripes"],
            ["stripes"] * 101,
        ]
    ).map(lambda datasets: training(datasets=datasets)),
    st.just(pb.Training()),
)
BAD_PROBES = st.one_of(
    NASTY.filter(lambda text: "/" in text or ":" in text or not text).map(lambda text: pb.Probe(model=text)),
    st.sampled_from(["runs/nothing", "../x", "file:///etc", "s3://x/runs/y", "/etc/passwd", ".", "x\n"]).map(
        lambda text: pb.Probe(model=text)
    ),
    NASTY.filter(bool).map(lambda text: pb.Probe(model="pixels", data=[text])),
    INT64.filter(lambda seed: not 0 <= seed < 2**31).map(lambda seed: pb.Probe(model="pixels", seed=seed)),
)
BAD_RESOURCES = st.one_of(
    INT32.filter(lambda n: n < 0 or n > 1).map(lambda n: pb.Resources(nodes=n)),
    INT32.filter(lambda n: n < 0 or n > 64).map(lambda n: pb.Resources(gpus_per_node=n)),
    INT32.filter(lambda n: n < 0 or n > 8).map(lambda n: pb.Resources(processes_per_node=n)),
)
BAD_CREATION = changed(
    run=NASTY.filter(lambda text: not DATASET_NAME.fullmatch(text)),
    training=BAD_TRAININGS,
    probe=BAD_PROBES,
    resources=BAD_RESOURCES,
    launcher=NASTY.filter(lambda text: text not in ("", "local")),
    ttl_seconds=INT64.filter(lambda n: n < 0 or n > 366 * 86_400),
    deadline_seconds=INT64.filter(lambda n: n < 0 or n > 366 * 86_400),
    max_restarts=INT32.filter(lambda n: n < 0 or n > 1000),
    queue=NASTY.filter(bool),
    request_id=NASTY.filter(lambda text: text != "" and not REQUEST_ID.fullmatch(text)),
)
BAD_NAMES = st.one_of(
    NASTY.map("runs/".__add__),
    NASTY,
    st.sampled_from(["", "runs/", "runs//x", "jobs/there", "runs/there/job", "Runs/there"]),
).filter(lambda text: text != "runs/there")


def cases(count: int) -> settings:
    """The same examples each time under continuous integration; new ones elsewhere."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=os.environ.get("CI") == "true",
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[rpc.TrainingServiceStub, Path]]:
    folder = tmp_path_factory.mktemp("bad-runs")
    store = folder / "store"
    write_stripes(store.as_uri())
    describe(store.as_uri())
    server = RedisServer(redis_program("valkey"), folder)
    try:
        with (
            GatewayProcess(folder / "gateway", store.as_uri(), server.url) as process,
            grpc.insecure_channel(process.address) as channel,
        ):
            stub = rpc.TrainingServiceStub(channel)
            stub.CreateRun(pb.CreateRunRequest(run="there", training=training()))
            yield stub, store
            assert process.running
            assert "failed, number" not in process.log
    finally:
        server.stop()


def refuse(world: tuple[rpc.TrainingServiceStub, Path], method: str, request: Any) -> grpc.RpcError:
    """Sends the request and gives the error it ended with, of which nothing is left behind."""
    stub, store = world
    before = objects(store)
    call = getattr(stub, method)
    with pytest.raises(grpc.RpcError) as caught:
        list(call(request, timeout=20)) if method in ("WatchRun", "GetRunLogs") else call(request, timeout=20)
    error = caught.value
    assert error.code() in REFUSALS, (method, request, error)
    assert len(error.details()) > 8
    assert "Traceback" not in error.details()
    assert objects(store) == before, (method, request)
    return error


def objects(store: Path) -> list[tuple[str, int]]:
    files = (path for path in store.rglob("*") if path.is_file())
    return sorted((str(path.relative_to(store)), path.stat().st_size) for path in files)


def test_a_bad_create_request_makes_no_run(world: Any) -> None:
    @cases(250)
    @given(BAD_CREATION)
    def each(fields: dict[str, Any]) -> None:
        good: dict[str, Any] = {"run": "never"}
        if "training" not in fields and "probe" not in fields:
            good["training"] = training()
        if "training" in fields and "probe" in fields:
            del fields["probe"]
        error = refuse(world, "CreateRun", pb.CreateRunRequest(**(good | fields)))
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT and len(fields) == 1:
            (field,) = fields
            assert error.details().startswith(field), (fields, error.details())

    each()


@pytest.mark.parametrize(
    "method", ["GetRun", "CancelRun", "ResumeRun", "DeleteRun", "WatchRun", "GetRunLogs"]
)
def test_a_name_of_no_run_is_refused(world: Any, method: str) -> None:
    @cases(40)
    @given(BAD_NAMES)
    def each(name: str) -> None:
        refuse(world, method, getattr(pb, f"{method}Request")(name=name))

    each()


def test_a_bad_page_token_is_refused(world: Any) -> None:
    @cases(40)
    @given(NASTY.filter(bool))
    def each(token: str) -> None:
        refuse(world, "ListRuns", pb.ListRunsRequest(page_token=token))

    each()


@pytest.mark.parametrize("argument", ["checkpoint_path", "pretrained", "pretrained_cfg", "cache_dir"])
def test_an_encoder_cannot_be_made_to_read_files_of_its_machine(world: Any, argument: str) -> None:
    config = GOOD | {f"encoder.kwargs.{argument}": "/etc/passwd"}
    request = pb.CreateRunRequest(run="never", training=training(config=config))
    error = refuse(world, "CreateRun", request)
    assert argument in error.details()
