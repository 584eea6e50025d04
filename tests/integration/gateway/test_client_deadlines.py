"""Deadlines and retries of the clients: what is late is said so, UNAVAILABLE alone is tried again."""

import asyncio
import os
import signal
import threading
import time
from collections import Counter, deque
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import grpc
import pytest

from stablerep.client import AsyncClient, Client, JobState
from stablerep.errors import DeadlineExceeded, InvalidInput, NotFound, StableRepError, Unavailable, WrongState
from stablerep.testing.servers import free_port
from stablerep.v1 import generation_pb2 as pb
from stablerep.v1 import generation_pb2_grpc as rpc
from tests.gateways import caption_file, planned

CALLS = {
    "get_job": "GetJob",
    "pause_job": "PauseJob",
    "resume_job": "ResumeJob",
    "cancel_job": "CancelJob",
    "retry_job": "RetryJob",
    "delete_job": "DeleteJob",
}


class _Scripted(rpc.GenerationServiceServicer):
    """Answers each call with the next status of the script, then well; counts the calls."""

    def __init__(self, *statuses):
        self.statuses = list(statuses)
        self.calls = Counter()

    def _answer(self, method, context, message):
        self.calls[method] += 1
        if self.statuses:
            context.abort(self.statuses.pop(0), "as the test wants it")
        return message

    def __getattribute__(self, name):
        if name not in (*CALLS.values(), "ListShards", "ListJobs"):
            return super().__getattribute__(name)
        answers = {
            "DeleteJob": pb.DeleteJobResponse(objects_deleted=3),
            "ListShards": pb.ListShardsResponse(shards=[pb.Shard(number=1, state=pb.Shard.DONE)]),
            "ListJobs": pb.ListJobsResponse(),
        }
        message = answers.get(name, pb.Job(name="jobs/shoes", state=pb.Job.RUNNING))
        return lambda request, context: self._answer(name, context, message)


@contextmanager
def serving(servicer, port=0):
    server = grpc.server(ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
    rpc.add_GenerationServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port(f"127.0.0.1:{port}")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None)


@pytest.mark.parametrize("store_url", ["local"], indirect=True)
class TestDeadlines:
    """With a queue server that has stopped answering, a gateway cannot answer either."""

    @pytest.fixture
    def stuck(self, client, tmp_path, redis_server):
        client.create_job("shoes", caption_file(tmp_path, 4), preset="tiny")
        planned(client, "shoes")
        os.kill(redis_server.pid, signal.SIGSTOP)
        yield
        os.kill(redis_server.pid, signal.SIGCONT)

    def test_a_call_that_is_late_ends_with_a_clear_error_and_the_next_one_may_wait(
        self, stuck, client, redis_server
    ):
        began = time.monotonic()
        with pytest.raises(DeadlineExceeded, match="no answer within `timeout`"):
            client.get_job("shoes", timeout=0.4)
        with pytest.raises(DeadlineExceeded):
            client.pause_job("shoes", timeout=0.4)
        assert time.monotonic() - began < 3
        os.kill(redis_server.pid, signal.SIGCONT)
        assert client.get_job("shoes", timeout=20).dataset == "shoes"

    def test_the_clients_own_limit_holds_for_every_call(self, stuck, gateway):
        with Client(gateway.address, timeout=0.4) as hasty:
            for call in (hasty.get_job, hasty.retry_job, hasty.resume_job):
                with pytest.raises(DeadlineExceeded):
                    call("shoes")

    def test_in_asyncio_too(self, stuck, gateway):
        async def ask():
            async with AsyncClient(gateway.address) as jobs:
                with pytest.raises(DeadlineExceeded, match="no answer within `timeout`"):
                    await jobs.get_job("shoes", timeout=0.4)

        asyncio.run(ask())

    def test_a_watch_ends_after_its_time_with_what_it_has_seen(self, client, tmp_path):
        client.create_job("shoes", caption_file(tmp_path, 4), preset="tiny")
        planned(client, "shoes")
        seen = []
        began = time.monotonic()
        watch = (seen.append(job.state) for job in client.watch_job("shoes", timeout=0.8))
        with pytest.raises(DeadlineExceeded):
            deque(watch, maxlen=0)
        assert 0.7 < time.monotonic() - began < 5
        assert seen == [JobState.RUNNING]


class TestRetries:
    @pytest.mark.parametrize("call", CALLS)
    def test_unavailable_is_tried_again(self, call):
        unavailable = grpc.StatusCode.UNAVAILABLE
        servicer = _Scripted(unavailable, unavailable)
        with serving(servicer) as address, Client(address) as client:
            getattr(client, call)("shoes")
        assert servicer.calls == {CALLS[call]: 3}

    def test_pages_are_tried_again_too(self):
        servicer = _Scripted(grpc.StatusCode.UNAVAILABLE)
        with serving(servicer) as address, Client(address) as client:
            assert [shard.number for shard in client.list_shards("shoes")] == [1]
        assert servicer.calls == {"ListShards": 2}

    @pytest.mark.parametrize(
        ("code", "kind"),
        [
            (grpc.StatusCode.FAILED_PRECONDITION, WrongState),
            (grpc.StatusCode.INVALID_ARGUMENT, InvalidInput),
            (grpc.StatusCode.NOT_FOUND, NotFound),
            (grpc.StatusCode.INTERNAL, StableRepError),
            (grpc.StatusCode.RESOURCE_EXHAUSTED, InvalidInput),
        ],
    )
    def test_nothing_else_is(self, code, kind):
        servicer = _Scripted(code)
        raised = pytest.raises(kind, match="as the test wants it")
        with serving(servicer) as address, Client(address) as client, raised:
            client.pause_job("shoes")
        assert servicer.calls == {"PauseJob": 1}

    def test_a_call_outlives_a_restart_of_its_server(self):
        port = free_port()
        servicer = _Scripted()
        answered = threading.Event()

        def restart():
            time.sleep(0.5)
            with serving(servicer, port):
                answered.wait(30)

        with Client(f"127.0.0.1:{port}") as client:
            with serving(_Scripted(), port):
                client.get_job("shoes")
            thread = threading.Thread(target=restart)
            thread.start()
            try:
                assert client.get_job("shoes").state is JobState.RUNNING
            finally:
                answered.set()
                thread.join()
        assert servicer.calls == {"GetJob": 1}

    def test_one_that_stays_away_is_given_up_and_named(self):
        address = f"127.0.0.1:{free_port()}"
        with Client(address) as client, pytest.raises(Unavailable, match=address) as caught:
            client.get_job("shoes")
        assert not isinstance(caught.value, DeadlineExceeded)
