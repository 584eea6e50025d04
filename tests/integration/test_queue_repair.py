"""A part of the queue is lost (a key, a group, the server itself), and every count is exact in the end."""

import random
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import redis

from stablerep.config.recipe import load_recipe
from stablerep.errors import InvalidInput, NotFound, Unavailable
from stablerep.jobs.job import CaptionSource, JobSpec
from stablerep.jobs.planning.plan import create_job, plan
from stablerep.jobs.recovery.backfill import backfill_totals
from stablerep.jobs.recovery.rebuild import ensure_queue, restore_absent
from stablerep.queue.client import Queue
from stablerep.queue.connection import connect
from stablerep.queue.states import Counts, JobState
from stablerep.shards import read_index
from stablerep.storage import Store, open_store
from tests.servers import RedisServer, free_port, redis_program
from tests.working import make_shard

KINDS = pytest.mark.parametrize("redis_kind", ["valkey", "redis"])
SHARDS, CAPTIONS_PER_SHARD = 12, 2
SHARED_KEYS = ("ready", "backlog", "jobs", "delayed", "uncounted", "epoch", "turn")
JOB_KEYS = ("job", "done", "leased", "retry", "failures", "dead")


def submit(store: Store, queue: Queue, dataset: str, priority: int = 0) -> None:
    """A planned job of SHARDS shards, asked for again while the queue is being rebuilt."""
    captions = "".join(f"{dataset} {number}\n" for number in range(SHARDS * CAPTIONS_PER_SHARD))
    store.put(f"sources/{dataset}.txt", captions.encode())
    source = CaptionSource(uri=f"sources/{dataset}.txt")
    spec = JobSpec(dataset, load_recipe("tiny"), source, CAPTIONS_PER_SHARD, priority=priority)
    while True:
        try:
            create_job(store, queue, spec)
            plan(store, queue, dataset, threading.Event())
            return
        except (Unavailable, NotFound):  # NotFound: its hash was deleted between the two
            time.sleep(0.01)


def repair(store: Store, queue: Queue) -> None:
    """What a gateway does every few seconds."""
    queue.inspect()
    if ensure_queue(store, queue):
        restore_absent(store, queue)
        backfill_totals(store, queue)


@contextmanager
def at_work(store: Store, queue_of: Callable[[], Queue], workers: int = 3) -> Iterator[threading.Event]:
    """Workers that make shards and fail one in eight the first time; a gateway that repairs."""
    stop = threading.Event()
    failed: set[tuple[str, int]] = set()
    unexpected: list[BaseException] = []

    def survive(step: Callable[[Queue], None]) -> None:
        queue = queue_of()
        while not stop.is_set():
            try:
                step(queue)
            except Unavailable:
                time.sleep(0.01)
            except BaseException as error:  # noqa: BLE001 - shown by the test
                unexpected.append(error)
                traceback.print_exc()
                stop.set()
        queue.close()

    def work(queue: Queue) -> None:
        lease = queue.lease(threading.current_thread().name, 2.0)
        if lease is None:
            ensure_queue(store, queue)
            time.sleep(0.01)
            return
        if lease.shard % 8 == 3 and (lease.dataset, lease.shard) not in failed:
            failed.add((lease.dataset, lease.shard))
            queue.fail(lease, "the first time")
            return
        made = make_shard(store, lease)
        while not stop.is_set():  # as the uploader does: what is committed is reported, however long it takes
            try:
                queue.complete(lease, **made)
                return
            except Unavailable:
                time.sleep(0.01)

    def look(queue: Queue) -> None:
        repair(store, queue)
        time.sleep(0.05)

    threads = [threading.Thread(target=survive, args=(work,), name=f"w{n}") for n in range(workers)]
    threads.append(threading.Thread(target=survive, args=(look,)))
    for thread in threads:
        thread.start()
    try:
        yield stop
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert [f"{type(error).__name__}: {error}" for error in unexpected] == []


def check_exact(store: Store, queue: Queue, dataset: str, seconds: float = 60) -> None:
    """The job ends, and what it counts is what the store holds: nothing lost, nothing twice."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            whole = queue.epoch() and not queue.inspect()  # what was deleted last has been noticed
            if whole and queue.state(dataset) is JobState.SUCCEEDED and not queue.run_script("uncounted"):
                break
        except (Unavailable, NotFound):
            pass
        assert time.monotonic() < deadline, (queue.epoch(), queue.status(dataset), queue.inspect())
        time.sleep(0.02)
    indexes = [read_index(store, dataset, shard) for shard in range(SHARDS)]
    assert None not in indexes
    groups = SHARDS * CAPTIONS_PER_SHARD
    assert queue.counts(dataset) == Counts(planned=SHARDS, done=SHARDS, groups=groups, images=groups)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@KINDS
def test_keys_deleted_at_random_moments_fifty_times(store: Store, redis_server: RedisServer) -> None:
    """In each of ten jobs five keys, one after the other; each kind of key several times."""
    chance = random.Random(redis_server.url.rpartition(":")[0])
    queue, server = Queue(redis_server.url, retry_seconds=0.05), redis.Redis.from_url(redis_server.url)
    queue.begin_epoch()
    deleted: list[str] = []
    with at_work(store, lambda: Queue(redis_server.url, retry_seconds=0.05)):
        for number in range(10):
            dataset = f"job{number}"
            submit(store, queue, dataset)
            for turn in range(5):
                time.sleep(chance.random() * 0.15)
                shared = [f"sr:{name}" for name in SHARED_KEYS]
                own = [f"sr:{kind}:{dataset}" for kind in JOB_KEYS]
                key = (own + shared)[(number * 5 + turn) % (len(own) + len(shared))]
                server.delete(key)
                deleted.append(key.split(":")[1])
            check_exact(store, queue, dataset)
        for number in range(10):
            check_exact(store, queue, f"job{number}")
    assert len(deleted) == 50
    assert len(set(deleted)) == 13
    queue.close()


@KINDS
def test_each_key_of_a_job_that_waits_and_of_one_that_is_over(
    store: Store, redis_server: RedisServer
) -> None:
    queue, server = Queue(redis_server.url, retry_seconds=0.01), redis.Redis.from_url(redis_server.url)
    queue.begin_epoch()
    submit(store, queue, "over")
    while lease := queue.lease("w", 60):
        queue.complete(lease, **make_shard(store, lease))
    for number, loss in enumerate(
        [
            *(f"sr:{kind}:DATASET" for kind in JOB_KEYS),
            "sr:job:over",
            "sr:done:over",
            "sr:jobs",
            "sr:backlog",
            "sr:ready",
            "group",
        ]
    ):
        dataset = f"waits{number}"
        submit(store, queue, dataset)
        held = [queue.lease("w", 60) for _ in range(3)]
        assert all(held)
        queue.complete(held[0], **make_shard(store, held[0]))
        queue.fail(held[1], "once")
        if loss == "group":
            server.xgroup_destroy("sr:ready", "generators")
        else:
            server.delete(loss.replace("DATASET", dataset))
        with at_work(store, lambda: Queue(redis_server.url, retry_seconds=0.01), workers=1):
            check_exact(store, queue, dataset)
            check_exact(store, queue, "over")
        assert queue.inspect() == []
    queue.close()


def test_a_whole_queue_has_nothing_to_repair(store: Store, redis_server: RedisServer) -> None:
    """At any moment of a job at work, of pauses and of retries."""
    queue = Queue(redis_server.url, retry_seconds=0.02)
    epoch = queue.begin_epoch()
    with at_work(store, lambda: Queue(redis_server.url, retry_seconds=0.02)):
        for number in range(6):
            submit(store, queue, f"job{number}", priority=number)
            for state in (JobState.PAUSED, JobState.RUNNING):
                queue.set_state(f"job{number}", state)
                assert queue.inspect() == []
        for number in range(6):
            check_exact(store, queue, f"job{number}")
            assert queue.inspect() == []
    assert queue.epoch() == epoch
    queue.close()


def test_a_queue_of_an_older_version_is_made_anew(store: Store, redis_server: RedisServer) -> None:
    """Its jobs have fields of other names, which no step of this version writes."""
    queue, server = Queue(redis_server.url), redis.Redis.from_url(redis_server.url)
    queue.begin_epoch()
    submit(store, queue, "old")
    server.hdel("sr:job:old", "job_uid")
    server.hset("sr:job:old", "birth", "2026")
    assert queue.inspect() == ["old: the job has no job_uid"]
    with at_work(store, lambda: Queue(redis_server.url)):
        check_exact(store, queue, "old")
    queue.close()


class Sentinels:
    """A primary, its replica and one Sentinel that watches them, all real processes."""

    def __init__(self, folder: Path) -> None:
        self.ports = [free_port() for _ in range(3)]
        self.processes: list[subprocess.Popen[bytes]] = []
        program = str(redis_program("redis"))
        for number, port in enumerate(self.ports[:2]):
            place = folder / str(number)
            place.mkdir()
            more = ["--replicaof", "127.0.0.1", str(self.ports[0])] if number else []
            self._start(program, "--port", str(port), "--dir", str(place), "--save", "", *more)
        config = folder / "sentinel.conf"
        config.write_text(
            f"port {self.ports[2]}\nsentinel monitor main 127.0.0.1 {self.ports[0]} 1\n"
            "sentinel down-after-milliseconds main 500\nsentinel failover-timeout main 2000\n"
        )
        self._start(program, str(config), "--sentinel")

    @property
    def url(self) -> str:
        return f"redis+sentinel://127.0.0.1:{self.ports[2]}/main/0"

    def server(self, number: int) -> "redis.Redis[bytes]":
        return redis.Redis(port=self.ports[number], socket_timeout=5)

    def wait(self, condition: Callable[[], bool], seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if condition():
                    return
            except redis.RedisError:
                pass
            assert time.monotonic() < deadline
            time.sleep(0.05)

    def stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()

    def _start(self, *command: str) -> None:
        self.processes.append(subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))


def test_a_failover_through_sentinel_loses_and_doubles_nothing(store: Store, tmp_path: Path) -> None:
    """The primary is demoted and answers READONLY to those still connected; then the new one is killed."""
    servers = Sentinels(tmp_path)
    try:
        servers.wait(lambda: servers.server(1).info("replication")["master_link_status"] == "up")
        servers.wait(lambda: len(servers.server(2).execute_command("SENTINEL", "replicas", "main")) == 1)
        queue = Queue(servers.url, retry_seconds=0.05)
        queue.begin_epoch()
        with at_work(store, lambda: Queue(servers.url, retry_seconds=0.05)):
            submit(store, queue, "first")
            servers.wait(lambda: bool(servers.server(2).execute_command("SENTINEL", "failover", "main")))
            servers.wait(lambda: servers.server(0).info("replication")["role"] == "slave")
            check_exact(store, queue, "first")
            submit(store, queue, "second")
            servers.processes[1].kill()
            check_exact(store, queue, "second")
            check_exact(store, queue, "first")
        queue.close()
    finally:
        servers.stop()


def test_a_demoted_server_is_left_for_the_one_that_has_its_name(store: Store, tmp_path: Path) -> None:
    """One name, two servers: a connection that answers READONLY is closed; the next one resolves the name."""
    servers = Sentinels(tmp_path)
    try:
        server = servers.server(0)
        servers.wait(lambda: bool(server.ping()))
        queue = Queue(f"redis://127.0.0.1:{servers.ports[0]}/0")
        queue.begin_epoch()
        before = {client["id"] for client in server.client_list()}
        servers.processes[2].kill()  # it would set the primary right
        server.replicaof("127.0.0.1", str(servers.ports[1]))
        with pytest.raises(Unavailable, match=r"READONLY|read only"):
            queue.add_job("x")
        server.replicaof("NO", "ONE")
        queue.add_job("x")
        mine = {client["id"] for client in server.client_list()} - before
        assert mine, "a new connection was made"
        queue.close()
    finally:
        servers.stop()


@pytest.mark.parametrize(
    "url",
    [
        "redis+sentinel://host:26379",
        "redis+sentinel:///main/0",
        "redis+sentinel://host:port/main",
        "redis+sentinel://:secret@host/main?x=1",
        "http+sentinel://host/main",
        "redis://:secret/x@host:1/0",
    ],
)
def test_a_url_that_is_none_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidInput, match=r"redis\+sentinel://") as caught:
        connect(url)
    assert "secret" not in str(caught.value)
    assert caught.value.field == "redis_url"
