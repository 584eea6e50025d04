"""Hundreds of generated bad requests and caption files, sent to a real gateway over a socket.

Each must end in a clear error (never INTERNAL or UNKNOWN), name the field where one is wrong, and leave store
and queue as they were.
"""

import bz2
import gzip
import os
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import grpc
import pytest
import redis
import zstandard
from google.protobuf.message import DecodeError
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from stablerep.client import Client, JobState
from stablerep.storage import open_store
from stablerep.testing.gateway import GatewayProcess
from stablerep.testing.servers import RedisServer
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc
from tests.bad_requests import (
    BAD_CREATION,
    BAD_FIRST_PIECE,
    BAD_JOB_NAMES,
    BAD_LATER_PIECE,
    BAD_LISTING,
    INT32,
    NASTY,
    UPLOAD_IDS,
    source,
)
from tests.gateways import caption_file, planned
from tests.tools import redis_program

REFUSALS = {
    grpc.StatusCode.INVALID_ARGUMENT,
    grpc.StatusCode.NOT_FOUND,
    grpc.StatusCode.ALREADY_EXISTS,
    grpc.StatusCode.FAILED_PRECONDITION,
    grpc.StatusCode.OUT_OF_RANGE,
    grpc.StatusCode.RESOURCE_EXHAUSTED,
}
SENT: Counter[str] = Counter()


def cases(count: int) -> settings:
    """The same examples each time under continuous integration; new ones elsewhere."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=os.environ.get("CI") == "true",
        database=None,
        suppress_health_check=list(HealthCheck),
    )


@dataclass
class World:
    """A gateway with a planned job `there`, and what there is to compare."""

    process: GatewayProcess
    stub: rpc.GenerationServiceStub
    channel: grpc.Channel
    store: Path
    queue: Any = field(repr=False)

    def state(self) -> tuple[object, ...]:
        """Every object of the store with its size, and every key of the queue with its content."""
        objects = sorted(
            (str(path.relative_to(self.store)), path.stat().st_size)
            for path in self.store.rglob("*")
            if path.is_file()
        )
        keys = sorted(key for key in self.queue.scan_iter() if not key.startswith(b"sr:planning:"))
        return (*objects, *((key, self.queue.dump(key)) for key in keys))


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    folder = tmp_path_factory.mktemp("bad-input")
    store = folder / "store"
    store.mkdir()
    (store / "captions.txt").write_text("a red shoe\na blue bag\n")
    (folder / "outside.txt").write_text("a secret\n")
    server = RedisServer(redis_program("valkey"), folder)
    queue = redis.Redis.from_url(server.url)
    try:
        with (
            GatewayProcess(folder / "gateway", store.as_uri(), server.url) as process,
            Client(process.address) as client,
            grpc.insecure_channel(process.address) as channel,
        ):
            client.create_job("there", caption_file(folder, 30), preset="tiny", captions_per_shard=10)
            planned(client, "there")
            stub = rpc.GenerationServiceStub(channel)
            stub.UploadCaptions(
                iter([pb.UploadCaptionsRequest(upload_id="half", file_name="a.txt", data=b"a")])
            )
            yield World(process, stub, channel, store, queue)
            assert process.running
            assert "failed, number" not in process.log
    finally:
        queue.close()
        server.stop()


def refuse(world: World, method: str, request: Any) -> grpc.RpcError:
    """Sends the request and gives the error it ended with, of which nothing is left behind."""
    before = world.state()
    call = getattr(world.stub, method)
    answers = {"WatchJob", "ReconcileJobs"}
    with pytest.raises(grpc.RpcError) as caught:
        list(call(request, timeout=20)) if method in answers else call(request, timeout=20)
    error = caught.value
    SENT[method] += 1
    assert error.code() in REFUSALS, (method, request, error)
    assert len(error.details()) > 8
    assert "Traceback" not in error.details()
    assert world.state() == before, (method, request)
    return error


def test_a_bad_create_request_makes_no_job(world: World) -> None:
    @cases(220)
    @given(BAD_CREATION)
    def each(fields: dict[str, Any]) -> None:
        good = {"dataset": "never", "preset": "tiny", "source": source()}
        error = refuse(world, "CreateJob", pb.CreateJobRequest(**(good | fields)))
        if error.code() is grpc.StatusCode.INVALID_ARGUMENT and len(fields) == 1:
            assert error.details().startswith(next(iter(fields))), error.details()

    each()
    different = pb.CreateJobRequest(dataset="there", preset="tiny", source=source(), seed=5)
    assert refuse(world, "CreateJob", different).code() is grpc.StatusCode.ALREADY_EXISTS
    large = pb.CreateJobRequest(dataset="never", recipe={"model": "m" * (5 << 20)}, source=source())
    assert refuse(world, "CreateJob", large).code() is grpc.StatusCode.RESOURCE_EXHAUSTED
    assert SENT["CreateJob"] >= 200


NAMED = {
    "GetJob": pb.GetJobRequest,
    "WatchJob": pb.WatchJobRequest,
    "CancelJob": pb.CancelJobRequest,
    "PauseJob": pb.PauseJobRequest,
    "ResumeJob": pb.ResumeJobRequest,
    "RetryJob": pb.RetryJobRequest,
    "DeleteJob": pb.DeleteJobRequest,
}


def test_a_job_that_cannot_be_is_refused_by_every_method_that_names_one(world: World) -> None:
    @cases(110)
    @given(st.sampled_from(sorted(NAMED)), BAD_JOB_NAMES, st.booleans())
    def each(method: str, name: str, flag: bool) -> None:
        more = {"force": flag, "delete_data": flag} if method == "DeleteJob" else {}
        error = refuse(world, method, NAMED[method](name=name, **more))
        assert error.code() in (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)

    @cases(20)
    @given(BAD_JOB_NAMES.filter(bool), st.booleans())
    def reconcile(name: str, verify: bool) -> None:
        refuse(world, "ReconcileJobs", pb.ReconcileJobsRequest(name=name, verify=verify))

    each()
    reconcile()
    assert sum(SENT[method] for method in (*NAMED, "ReconcileJobs")) > 120


def test_shards_that_cannot_be_retried_listed_or_deleted(world: World) -> None:
    @cases(60)
    @given(st.lists(INT32.filter(lambda number: not 0 <= number < 3), min_size=1, max_size=5))
    def retry(shards: list[int]) -> None:
        refuse(world, "RetryJob", pb.RetryJobRequest(name="jobs/there", shards=shards))

    @cases(60)
    @given(BAD_LISTING)
    def listing(fields: dict[str, Any]) -> None:
        refuse(world, "ListShards", pb.ListShardsRequest(**({"parent": "jobs/there"} | fields)))

    retry()
    listing()
    refuse(world, "RetryJob", pb.RetryJobRequest(name="jobs/there", shards=range(10_001)))
    running = refuse(world, "DeleteJob", pb.DeleteJobRequest(name="jobs/there", delete_data=True))
    assert running.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_pages_and_uploads_that_cannot_be(world: World) -> None:
    @cases(30)
    @given(NASTY.filter(bool), INT32)
    def jobs(token: str, size: int) -> None:
        refuse(world, "ListJobs", pb.ListJobsRequest(page_token=token, page_size=size))

    @cases(30)
    @given(st.one_of(NASTY, UPLOAD_IDS))
    def upload(upload_id: str) -> None:
        refuse(world, "GetUpload", pb.GetUploadRequest(upload_id=upload_id))

    jobs()
    upload()
    for size in (-(2**31), -1, 0, 1, 2**31 - 1):  # coerced, as the API says
        assert len(world.stub.ListJobs(pb.ListJobsRequest(page_size=size)).jobs) == 1


def test_a_bad_stream_of_pieces_stores_nothing(world: World) -> None:
    @cases(60)
    @given(BAD_FIRST_PIECE)
    def first(fields: dict[str, Any]) -> None:
        good = {"upload_id": "new", "file_name": "a.txt", "data": b"a red shoe\n", "last": True}
        refuse(world, "UploadCaptions", iter([pb.UploadCaptionsRequest(**(good | fields))]))

    @cases(40)
    @given(BAD_LATER_PIECE)
    def second(fields: dict[str, Any]) -> None:
        good = pb.UploadCaptionsRequest(upload_id="new", file_name="a.txt", data=b"a red shoe\n")
        refuse(world, "UploadCaptions", iter([good, pb.UploadCaptionsRequest(**({"data": b"x"} | fields))]))

    first()
    second()
    refuse(world, "UploadCaptions", iter([]))
    wrong = refuse(
        world, "UploadCaptions", iter([pb.UploadCaptionsRequest(upload_id="half", file_name="a.txt")])
    )
    assert wrong.code() is grpc.StatusCode.OUT_OF_RANGE
    assert SENT["UploadCaptions"] >= 100


METHODS = {
    method.name: pb.DESCRIPTOR.pool.FindMessageTypeByName(method.input_type.full_name)
    for method in pb.DESCRIPTOR.services_by_name["GenerationService"].methods
}


def decodes(method: str, data: bytes) -> bool:
    try:
        GetMessageClass(METHODS[method]).FromString(data)
    except DecodeError:
        return False
    return True


def test_bytes_that_are_no_message_are_refused(world: World) -> None:
    good = pb.CreateJobRequest(dataset="never", preset="tiny", source=source()).SerializeToString()

    @cases(80)
    @given(
        st.sampled_from(sorted(METHODS)),
        st.one_of(
            st.binary(min_size=1, max_size=60), st.integers(1, len(good) - 1).map(lambda cut: good[:cut])
        ),
    )
    def each(method: str, data: bytes) -> None:
        assume(not decodes(method, data))
        before = world.state()
        path = f"/stablerep.v1.GenerationService/{method}"
        stream = iter([data])
        with pytest.raises(grpc.RpcError) as caught:  # gRPC itself tells no kind of call from another
            list(world.channel.stream_stream(path)(stream, timeout=20))
        SENT["bytes"] += 1
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, (method, data, caught.value)
        assert world.state() == before

    each()
    assert SENT["bytes"] >= 50


def rows(count: int) -> bytes:
    return b"".join(b'{"caption": "a caption %d"}\n' % number for number in range(count))


JUNK = random.Random(7).randbytes(40_000)
BAD_FILES = {
    "empty lines": ("a.txt", b"\n \n\t\n"),
    "one long line": ("b.txt", b"x" * 3_000_000),
    "no utf-8": ("c.txt", b"\xfd\xfe\xff\n" * 10),
    "utf-16 of half characters": ("d.txt", b"\xff\xfe" + b"\x00\xd8\n\0" * 10),
    "nothing but zeros": ("e.txt", bytes(100_000)),
    "junk as parquet": ("f.parquet", JUNK),
    "junk as a tar": ("g.tar", JUNK),
    "zeros as a tar": ("g2.tar", bytes(10240)),
    "junk as gzip": ("h.txt.gz", b"\x1f\x8b" + JUNK),
    "junk as zstd": ("i.txt.zst", b"\x28\xb5\x2f\xfd" + JUNK),
    "gzip cut off": ("j.jsonl.gz", gzip.compress(rows(5000))[:-20]),
    "zstd cut off": ("k.jsonl.zst", zstandard.compress(rows(5000))[:-20]),
    "bzip2, which is not read": ("l.jsonl", bz2.compress(rows(5000))),
    "json that does not end": ("m.json", b'{"annotations": [{"caption": "a"}, {"capt'),
    "json without annotations": ("n.json", b'{"a": 1}'),
    "json as deep as it is long": ("o.json", b"[" * 200_000),
    "jsonl of deep lists": ("p.jsonl", b"[" * 100_000 + b"\n"),
    "jsonl without the field": ("q.jsonl", b'{"x": "a"}\n' * 20),
    "csv whose quotes stay open": ("r.csv", b"caption\n" + b'"a\n' * 3),
    "tsv of three columns": ("s.tsv", b"a\tb\tc\n" * 5),
    "a field that is huge": ("t.csv", b"caption\n" + b'"' + b"y" * 5_000_000 + b'"\n'),
    "zeros that unpack to 256 MiB": ("u.txt.gz", gzip.compress(bytes(256 << 20), 1)),
    "parquet without its end": ("v.parquet", b"PAR1" + JUNK),
    "a tar of one damaged header": ("w.tar", JUNK[:512] + bytes(10240 - 512)),
}


def test_a_bad_caption_file_fails_its_job_and_makes_no_shard(world: World) -> None:
    with Client(world.process.address) as client:
        names = {}
        for number, (name, data) in enumerate(BAD_FILES.values()):
            (world.store / name).write_bytes(data)
            names[f"file{number}"] = client.create_job(
                f"file{number}", f"store:{name}", preset="tiny", captions_per_shard=10_000
            ).name
            SENT["files"] += 1
        for (kind, _), name in zip(BAD_FILES.items(), names.values(), strict=True):
            job = planned(client, name, 30)
            assert job.state is JobState.FAILED, kind
            assert len(job.error) > 20, kind
            assert not job.counts.shards, kind
        store = open_store(world.store.as_uri())
        assert [info.key for info in store.list("datasets/file") if "/captions/" in info.key] == []
        assert client.get_job("there").state is JobState.RUNNING
