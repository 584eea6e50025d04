"""Requests that the gateway refuses: each names its field, and none leaves anything behind."""

from collections.abc import Iterator

import grpc
import pytest

from stablerep.client.channel import translate
from stablerep.errors import InvalidInput
from stablerep.testing.gateway import GatewayProcess
from stablerep.testing.servers import RedisServer
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc
from tests.tools import redis_program


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[rpc.GenerationServiceStub, str]]:
    """One gateway for requests that leave nothing behind; its store holds a good file, `captions.txt`."""
    folder = tmp_path_factory.mktemp("shared")
    (folder / "store").mkdir()
    (folder / "store" / "captions.txt").write_text("a red shoe\na blue bag\n")
    server = RedisServer(redis_program("valkey"), folder)
    url = (folder / "store").as_uri()
    try:
        with (
            GatewayProcess(folder, url, server.url) as process,
            grpc.insecure_channel(process.address) as channel,
        ):
            yield rpc.GenerationServiceStub(channel), url
    finally:
        server.stop()


def test_wrong_offset_is_told_what_is_stored(shared: tuple[rpc.GenerationServiceStub, str]) -> None:
    stub, _ = shared
    first = pb.UploadCaptionsRequest(upload_id="offsets", file_name="a.txt", data=b"abc")
    stored = stub.UploadCaptions(iter([first]))
    assert (stored.size, stored.complete) == (3, False)
    with pytest.raises(grpc.RpcError) as caught:
        stub.UploadCaptions(iter([first]))
    assert caught.value.code() is grpc.StatusCode.OUT_OF_RANGE
    assert "3 bytes" in caught.value.details()
    with pytest.raises(grpc.RpcError) as caught:
        stub.CreateJob(create_request(source=pb.CaptionSource(upload_id="offsets")))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION
    rest = pb.UploadCaptionsRequest(upload_id="offsets", file_name="a.txt", offset=3, data=b"d\n", last=True)
    assert stub.UploadCaptions(iter([rest])).complete
    upload = stub.GetUpload(pb.GetUploadRequest(upload_id="offsets"))
    assert (upload.size, upload.complete, upload.file_name) == (5, True, "a.txt")
    more = pb.UploadCaptionsRequest(upload_id="offsets", file_name="a.txt", offset=5, data=b"e")
    with pytest.raises(grpc.RpcError) as caught:
        stub.UploadCaptions(iter([more]))
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


@pytest.mark.parametrize(
    ("field", "messages"),
    [
        ("upload_id", [{"upload_id": "No Such", "file_name": "a.txt"}]),
        ("upload_id", [{"upload_id": "../../etc", "file_name": "a.txt"}]),
        ("upload_id", []),
        ("file_name", [{"upload_id": "u1", "data": b"x"}]),
        ("file_name", [{"upload_id": "u1", "file_name": "../a.txt", "data": b"x"}]),
        ("data", [{"upload_id": "u2", "file_name": "a.txt", "data": b"x" * ((2 << 20) + 1)}]),
        ("data", [{"upload_id": "u3", "file_name": "a.txt", "last": True}]),
        (
            "upload_id",
            [{"upload_id": "u4", "file_name": "a.txt", "data": b"x"}, {"upload_id": "u4", "data": b"y"}],
        ),
    ],
)
def test_bad_upload_names_its_field(
    shared: tuple[rpc.GenerationServiceStub, str], field: str, messages: list[dict[str, object]]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        shared[0].UploadCaptions(iter([pb.UploadCaptionsRequest(**message) for message in messages]))
    assert refused_field(caught.value) == field


def create_request(**fields: object) -> pb.CreateJobRequest:
    good: dict[str, object] = {
        "dataset": "never",
        "preset": "tiny",
        "source": pb.CaptionSource(uri="captions.txt"),
    }
    return pb.CreateJobRequest(**(good | fields))


def refused_field(error: grpc.RpcError) -> str:
    """The field named by INVALID_ARGUMENT, which its text begins with."""
    assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, error
    ours = translate(error)
    assert isinstance(ours, InvalidInput)
    assert error.details().startswith(f"{ours.field}: ")
    return ours.field


def source(**fields: object) -> dict[str, object]:
    return {"source": pb.CaptionSource(**({"uri": "captions.txt"} | fields))}


@pytest.mark.parametrize(
    ("field", "fields"),
    [
        ("dataset", {"dataset": ""}),
        ("dataset", {"dataset": "Upper"}),
        ("dataset", {"dataset": "../up"}),
        ("dataset", {"dataset": "a" * 64}),
        ("dataset", {"dataset": ".hidden"}),
        ("preset", {"preset": "nope"}),
        ("preset", {"preset": "../../etc/passwd"}),
        ("preset", {"preset": "/etc/passwd"}),
        ("recipe.nope", {"recipe": {"nope": "1"}}),
        ("recipe.steps", {"recipe": {"steps": "many"}}),
        ("recipe.steps", {"recipe": {"steps": "0"}}),
        ("recipe.steps", {"recipe": {"steps": "1001"}}),
        ("recipe.guidance_scale", {"recipe": {"guidance_scale": "nan"}}),
        ("recipe.sampler", {"recipe": {"sampler": "euler"}}),
        ("recipe.dtype", {"recipe": {"dtype": "int8"}}),
        ("recipe.save_size", {"recipe": {"save_size": "64"}}),
        ("recipe.images_per_caption", {"recipe": {"images_per_caption": "100"}}),
        ("recipe", {"recipe": {"model": "m" * 2000}}),
        ("source", {"source": None}),
        ("source.uri", source(uri="/etc/passwd")),
        ("source.uri", source(uri="file:///etc/passwd")),
        ("source.uri", source(uri="http://127.0.0.1/captions.txt")),
        ("source.uri", source(uri="s3://elsewhere/captions.txt")),
        ("source.uri", source(uri="a/../../captions.txt")),
        ("source.uri", source(uri="missing.txt")),
        ("source.upload_id", source(upload_id="No Such")),
        ("source.format", source(format="xml")),
        ("source.column", source(column="c" * 2000)),
        ("source.limit", source(limit=-1)),
        ("captions_per_shard", {"captions_per_shard": -1}),
        ("captions_per_shard", {"captions_per_shard": 10_001}),
        ("priority", {"priority": -1}),
        ("priority", {"priority": 10}),
        ("request_id", {"request_id": "no spaces"}),
        ("request_id", {"request_id": "../up"}),
        ("request_id", {"request_id": ".tmp-1"}),
        ("request_id", {"request_id": "r" * 129}),
    ],
)
def test_bad_request_names_its_field(
    shared: tuple[rpc.GenerationServiceStub, str], field: str, fields: dict[str, object]
) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        shared[0].CreateJob(create_request(**fields))
    assert refused_field(caught.value) == field
    assert list(shared[0].ListJobs(pb.ListJobsRequest()).jobs) == []


def test_url_that_leaves_the_store_is_refused(shared: tuple[rpc.GenerationServiceStub, str]) -> None:
    stub, url = shared
    for uri in (f"{url}/../captions.txt", f"{url}/%2e%2e/captions.txt", f"{url}-other/captions.txt"):
        with pytest.raises(grpc.RpcError) as caught:
            stub.CreateJob(create_request(source=pb.CaptionSource(uri=uri)))
        assert refused_field(caught.value) == "source.uri"


@pytest.mark.parametrize("name", ["", "never", "jobs/", "jobs/Upper", "jobs/a/b", "runs/a", "jobs/../x"])
def test_malformed_names_are_refused(shared: tuple[rpc.GenerationServiceStub, str], name: str) -> None:
    stub, _ = shared
    for call in (
        lambda: stub.GetJob(pb.GetJobRequest(name=name)),
        lambda: stub.CancelJob(pb.CancelJobRequest(name=name)),
        lambda: list(stub.WatchJob(pb.WatchJobRequest(name=name))),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert refused_field(caught.value) == "name"


def test_unknown_names_are_not_found(shared: tuple[rpc.GenerationServiceStub, str]) -> None:
    stub, _ = shared
    for call in (
        lambda: stub.GetJob(pb.GetJobRequest(name="jobs/unknown")),
        lambda: stub.CancelJob(pb.CancelJobRequest(name="jobs/unknown")),
        lambda: list(stub.WatchJob(pb.WatchJobRequest(name="jobs/unknown"))),
        lambda: stub.GetUpload(pb.GetUploadRequest(upload_id="unknown")),
        lambda: stub.CreateJob(create_request(source=pb.CaptionSource(upload_id="unknown"))),
    ):
        with pytest.raises(grpc.RpcError) as caught:
            call()
        assert caught.value.code() is grpc.StatusCode.NOT_FOUND, caught.value


@pytest.mark.parametrize("token", ["nonsense!", "e30=", "////", "bm8gc3BhY2Vz"])
def test_bad_page_token_is_refused(shared: tuple[rpc.GenerationServiceStub, str], token: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        shared[0].ListJobs(pb.ListJobsRequest(page_token=token))
    assert refused_field(caught.value) == "page_token"


def test_message_over_the_limit_is_refused_and_the_gateway_lives(
    shared: tuple[rpc.GenerationServiceStub, str],
) -> None:
    stub, _ = shared
    with pytest.raises(grpc.RpcError) as caught:
        stub.CreateJob(create_request(dataset="x" * (5 << 20)))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert list(stub.ListJobs(pb.ListJobsRequest()).jobs) == []
