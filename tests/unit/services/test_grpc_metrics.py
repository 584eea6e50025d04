"""gRPC calls are counted when they end, by the code that the caller got; unknown names share one label."""

import asyncio
from collections.abc import AsyncIterator, Callable, Coroutine
from pathlib import Path
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health, health_pb2, health_pb2_grpc
from prometheus_client import REGISTRY

from services.rpc.metrics import _at_its_deadline
from services.rpc.server import listen, open_server
from stablerep.config.settings import Auth, Settings
from stablerep.errors import InvalidInput
from stablerep.tokens import add_token, new_token
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc

SERVICE = pb.DESCRIPTOR.services_by_name["GenerationService"].full_name
JOBS = (SERVICE, "ListJobs", "unary")
JOB = (SERVICE, "GetJob", "unary")
CREATE = (SERVICE, "CreateJob", "unary")
WATCH = (SERVICE, "WatchJob", "server_stream")
UPLOAD = (SERVICE, "UploadCaptions", "client_stream")
UNKNOWN = ("unknown", "unknown", "unary")
Method = tuple[str, str, str]
OPEN = Settings()
"""Whoever reaches the loopback address may call."""


class Servicer(rpc.GenerationServiceServicer):
    """One method each way to end a call."""

    def __init__(self) -> None:
        self.in_call = asyncio.Event()
        self.go_on = asyncio.Event()

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        return pb.ListJobsResponse()

    async def CreateJob(self, request: pb.CreateJobRequest, context: Any) -> pb.Job:
        raise InvalidInput("is empty", field="dataset") if not request.request_id else KeyError("ours")

    async def GetJob(self, request: pb.GetJobRequest, context: Any) -> pb.Job:
        self.in_call.set()
        await asyncio.sleep(60)
        return pb.Job()

    async def WatchJob(self, request: pb.WatchJobRequest, context: Any) -> AsyncIterator[pb.Job]:
        yield pb.Job()
        while request.name:
            self.in_call.set()
            # "wait": the caller hangs up while the next message is waited for; else while one is being sent
            if request.name == "wait":
                await asyncio.sleep(60)
            yield pb.Job(error="x" * 100_000)
        await self.go_on.wait()

    async def UploadCaptions(
        self, requests: AsyncIterator[pb.UploadCaptionsRequest], context: Any
    ) -> pb.Upload:
        async for _ in requests:
            pass
        return pb.Upload()


def handled(method: Method, code: str) -> float:
    service, name, kind = method
    labels = {"grpc_service": service, "grpc_method": name, "grpc_type": kind, "grpc_code": code}
    return REGISTRY.get_sample_value("grpc_server_handled_total", labels) or 0.0


def of_method(metric: str, method: Method) -> float:
    service, name, kind = method
    labels = {"grpc_service": service, "grpc_method": name, "grpc_type": kind}
    return REGISTRY.get_sample_value(metric, labels) or 0.0


def call(
    body: Callable[[grpc.aio.Channel, Servicer], Coroutine[Any, Any, None]], settings: Settings = OPEN
) -> None:
    async def run() -> None:
        front = open_server(settings, [SERVICE], [])
        servicer = Servicer()
        rpc.add_GenerationServiceServicer_to_server(servicer, front.server)
        address = listen(front, settings, "127.0.0.1:0", field="address")
        await front.server.start()
        try:
            async with grpc.aio.insecure_channel(address) as channel:
                await body(channel, servicer)
        finally:
            await front.server.stop(0)

    asyncio.run(run())


async def soon(condition: Callable[[], bool]) -> None:
    for _ in range(500):
        if condition():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("not counted within 5 s")


def counts_one(
    method: Method,
    code: str,
    body: Callable[[Any, Servicer], Coroutine[Any, Any, None]],
    settings: Settings = OPEN,
) -> None:
    """`body` makes one call, which must be counted once: begun, ended with `code` and no other, and timed."""
    metrics = ("grpc_server_started_total", "grpc_server_handling_seconds_count")
    names = [each.name for each in grpc.StatusCode]
    before = [of_method(metric, method) for metric in metrics]
    codes = {name: handled(method, name) for name in names}

    async def counted(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        await body(channel, servicer)
        await soon(lambda: handled(method, code) == codes[code] + 1)

    call(counted, settings)
    after = [of_method(metric, method) for metric in metrics]
    if method is UNKNOWN:
        after[1] += 1  # gRPC's own answer is not timed
    assert after == [number + 1 for number in before]
    assert {name for name in names if handled(method, name) != codes[name]} == {code}


def test_an_answered_call_is_counted_ok() -> None:
    async def body(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        await rpc.GenerationServiceStub(channel).ListJobs(pb.ListJobsRequest())

    counts_one(JOBS, "OK", body)


@pytest.mark.parametrize(("request_id", "code"), [("", "INVALID_ARGUMENT"), ("fault", "INTERNAL")])
def test_a_failed_call_is_counted_with_the_code_that_its_caller_gets(request_id: str, code: str) -> None:
    async def body(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await rpc.GenerationServiceStub(channel).CreateJob(pb.CreateJobRequest(request_id=request_id))
        assert raised.value.code().name == code

    counts_one(CREATE, code, body)


def test_a_stream_is_counted_once_at_its_end() -> None:
    async def body(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        before = handled(WATCH, "OK")
        stream = rpc.GenerationServiceStub(channel).WatchJob(pb.WatchJobRequest())
        assert await stream.read() != grpc.aio.EOF
        assert handled(WATCH, "OK") == before
        servicer.go_on.set()
        assert await stream.read() == grpc.aio.EOF

    counts_one(WATCH, "OK", body)


def test_an_upload_stream_is_counted() -> None:
    async def body(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        pieces = [pb.UploadCaptionsRequest()] * 3
        await rpc.GenerationServiceStub(channel).UploadCaptions(iter(pieces))

    counts_one(UPLOAD, "OK", body)


def test_a_call_that_its_caller_gives_up_is_counted_cancelled() -> None:
    async def body(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        waiting = rpc.GenerationServiceStub(channel).GetJob(pb.GetJobRequest())
        call = asyncio.ensure_future(waiting)
        await asyncio.wait_for(servicer.in_call.wait(), 5)
        call.cancel()

    counts_one(JOB, "CANCELLED", body)


def test_a_call_past_its_deadline_is_counted_so() -> None:
    async def body(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        with pytest.raises(grpc.aio.AioRpcError):
            await rpc.GenerationServiceStub(channel).GetJob(pb.GetJobRequest(), timeout=2.0)

    counts_one(JOB, "DEADLINE_EXCEEDED", body)


@pytest.mark.parametrize(
    ("allowed", "remaining", "late"),
    [
        (None, None, False),  # no deadline: the caller hung up
        (2.0, -0.001, True),
        (2.0, 0.1, True),  # the caller's clock was ahead by the call's way
        (2.0, 0.3, False),
        (600.0, 0.9, True),
        (600.0, 1.1, False),  # on no way does a call take that long
    ],
)
def test_a_caller_hangs_up_at_its_deadline_by_its_own_clock(
    allowed: float | None, remaining: float | None, late: bool
) -> None:
    assert _at_its_deadline(allowed, remaining) is late


def test_a_call_that_is_given_up_before_its_deadline_is_counted_cancelled() -> None:
    async def body(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        waiting = rpc.GenerationServiceStub(channel).GetJob(pb.GetJobRequest(), timeout=60)
        call = asyncio.ensure_future(waiting)
        await asyncio.wait_for(servicer.in_call.wait(), 5)
        call.cancel()

    counts_one(JOB, "CANCELLED", body)


@pytest.mark.parametrize("at", ["wait", "send"])
def test_a_stream_whose_reader_hangs_up_is_counted_cancelled(at: str) -> None:
    async def body(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        stream = rpc.GenerationServiceStub(channel).WatchJob(pb.WatchJobRequest(name=at))
        await stream.read()
        await asyncio.wait_for(servicer.in_call.wait(), 5)
        await asyncio.sleep(0.3)  # time for the sender to be held up by flow control
        stream.cancel()

    counts_one(WATCH, "CANCELLED", body)


def test_health_is_counted_though_its_stream_is_no_generator() -> None:
    async def body(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        watch = health_pb2_grpc.HealthStub(channel).Watch(health_pb2.HealthCheckRequest())
        first = await watch.read()
        assert first.status == health_pb2.HealthCheckResponse.SERVING
        watch.cancel()

    counts_one((health.SERVICE_NAME, "Watch", "server_stream"), "CANCELLED", body)


@pytest.mark.parametrize("method", [JOBS, WATCH])
def test_a_refused_call_is_counted_under_its_method(method: Method, tmp_path: Path) -> None:
    tokens = tmp_path / "tokens"
    add_token(tokens, new_token("somebody", "read")[1])

    async def body(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        stub = rpc.GenerationServiceStub(channel)
        stream = method == WATCH
        waiting = (
            stub.WatchJob(pb.WatchJobRequest()).read() if stream else stub.ListJobs(pb.ListJobsRequest())
        )
        with pytest.raises(grpc.aio.AioRpcError):
            await waiting

    counts_one(method, "UNAUTHENTICATED", body, Settings(auth=Auth(tokens_file=tokens)))


def test_names_of_methods_that_do_not_exist_share_one_label() -> None:
    async def one(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        with pytest.raises(grpc.aio.AioRpcError) as raised:
            await channel.unary_unary("/stablerep.v1.GenerationService/Guess")(b"")
        assert raised.value.code() is grpc.StatusCode.UNIMPLEMENTED

    async def many(channel: grpc.aio.Channel, servicer: Servicer) -> None:
        for number in range(20):
            with pytest.raises(grpc.aio.AioRpcError):
                await channel.unary_unary(f"/guess.{number}/Guess{number}")(b"")

    counts_one(UNKNOWN, "UNIMPLEMENTED", one)
    before = series()
    call(many)
    assert series() == before
    assert handled(UNKNOWN, "UNIMPLEMENTED") >= 21


def series() -> int:
    return sum(len(metric.samples) for metric in REGISTRY.collect() if metric.name.startswith("grpc_server"))
