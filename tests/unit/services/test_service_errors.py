"""Errors on their way through a real gRPC call: raised in the server, raised again in the client."""

import asyncio
import logging

import grpc
import pytest
import redis.exceptions
from google.rpc import error_details_pb2, status_pb2

from services.rpc.errors import ErrorInterceptor, NotReady, WrongOffset
from stablerep.client import AsyncClient
from stablerep.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    StableRepError,
    StoreError,
    TornObject,
    Unavailable,
)
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc


class Failing(rpc.GenerationServiceServicer):
    """Raises one error from a call and from a stream."""

    def __init__(self, error: Exception) -> None:
        self._error = error

    async def CancelJob(self, request: pb.CancelJobRequest, context: grpc.aio.ServicerContext) -> pb.Job:
        raise self._error

    async def WatchJob(self, request: pb.WatchJobRequest, context: grpc.aio.ServicerContext):  # type: ignore[no-untyped-def]
        yield pb.Job(name="jobs/a", state=pb.Job.RUNNING)
        raise self._error


def call_failing(error: Exception, *, stream: bool = False) -> grpc.RpcError:
    async def call() -> grpc.RpcError:
        server = grpc.aio.server(interceptors=[ErrorInterceptor()])
        rpc.add_GenerationServiceServicer_to_server(Failing(error), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
            stub = rpc.GenerationServiceStub(channel)
            send = _read_stream(stub) if stream else stub.CancelJob(pb.CancelJobRequest())
            try:
                with pytest.raises(grpc.RpcError) as caught:
                    await send
                return caught.value
            finally:
                await server.stop(None)

    return asyncio.run(call())


async def _read_stream(stub: rpc.GenerationServiceStub) -> None:
    async for _ in stub.WatchJob(pb.WatchJobRequest()):
        pass


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(
    ("error", "code"),
    [
        (InvalidInput("is odd", field="seed"), grpc.StatusCode.INVALID_ARGUMENT),
        (NotReady("not yet", field="upload_id"), grpc.StatusCode.FAILED_PRECONDITION),
        (WrongOffset("is not 3", stored=3), grpc.StatusCode.OUT_OF_RANGE),
        (NotFound("no job"), grpc.StatusCode.NOT_FOUND),
        (AlreadyExists("differs", field="seed"), grpc.StatusCode.ALREADY_EXISTS),
        (TornObject("torn"), grpc.StatusCode.DATA_LOSS),
        (StoreError("disk full"), grpc.StatusCode.UNAVAILABLE),
        (Unavailable("away"), grpc.StatusCode.UNAVAILABLE),
        (redis.exceptions.ConnectionError("refused"), grpc.StatusCode.UNAVAILABLE),
        (redis.exceptions.TimeoutError("slow"), grpc.StatusCode.UNAVAILABLE),
    ],
)
def test_error_raised_on_purpose_has_its_code_and_text(
    error: Exception, code: grpc.StatusCode, stream: bool
) -> None:
    seen = call_failing(error, stream=stream)
    assert seen.code() is code
    assert str(error) in seen.details()


def details(error: grpc.RpcError) -> status_pb2.Status:
    return status_pb2.Status.FromString(dict(error.trailing_metadata())["grpc-status-details-bin"])


def test_invalid_argument_carries_the_field_as_other_languages_expect_it() -> None:
    status = details(call_failing(InvalidInput("is odd", field="seed")))
    bad_request = error_details_pb2.BadRequest()
    assert status.code == grpc.StatusCode.INVALID_ARGUMENT.value[0]
    assert status.details[0].Unpack(bad_request)
    assert [violation.field for violation in bad_request.field_violations] == ["seed"]


def test_wrong_offset_carries_the_stored_size() -> None:
    info = error_details_pb2.ErrorInfo()
    assert details(call_failing(WrongOffset("is not 3", stored=3))).details[0].Unpack(info)
    assert dict(info.metadata) == {"field": "offset", "stored": "3"}


@pytest.mark.parametrize("stream", [False, True])
def test_a_fault_shows_the_client_a_number_and_the_log_the_rest(
    stream: bool, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.ERROR, logger="stablerep.grpc"):
        seen = call_failing(KeyError("password=hunter2"), stream=stream)
    assert seen.code() is grpc.StatusCode.INTERNAL
    assert "hunter2" not in seen.details()
    assert "Traceback" not in seen.details()
    number = seen.details().rpartition(" ")[2]
    assert number in caplog.text
    assert "hunter2" in caplog.text


@pytest.mark.parametrize(
    "error",
    [
        InvalidInput("is odd", field="recipe.steps"),
        NotFound("no job x"),
        AlreadyExists("exists with seed 1, not 2", field="seed"),
        TornObject("torn"),
    ],
)
def test_client_raises_what_the_server_raised(error: StableRepError) -> None:
    async def call() -> StableRepError:
        server = grpc.aio.server(interceptors=[ErrorInterceptor()])
        rpc.add_GenerationServiceServicer_to_server(Failing(error), server)
        port = server.add_insecure_port("127.0.0.1:0")
        await server.start()
        async with AsyncClient(f"127.0.0.1:{port}") as client:
            with pytest.raises(StableRepError) as caught:
                await client.cancel_job("jobs/x")
        await server.stop(None)
        return caught.value

    raised = asyncio.run(call())
    assert type(raised) is type(error)
    assert str(raised) == str(error)
    assert getattr(raised, "field", "") == getattr(error, "field", "")
