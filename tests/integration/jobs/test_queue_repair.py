"""A part of the queue is lost (a key, a group, the server itself), and every count is exact in the end."""

import itertools
import random
import subprocess
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import redis

from stablerep.config.recipe import load_recipe
from stablerep.errors import InvalidInput, NotFound, Unavailable
from stablerep.jobs.control import record_dead, retry_job
from stablerep.jobs.job import CaptionSource, JobSpec
from stablerep.jobs.planning.create import create_job
from stablerep.jobs.planning.plan import plan
from stablerep.jobs.recovery.repair import Depth, repair
from stablerep.queue.client import Queue
from stablerep.queue.connection import connect
from stablerep.queue.leases import FailOutcome, Lease, RenewOutcome
from stablerep.queue.states import Counts, JobState
from stablerep.shards import read_index
from stablerep.storage import Store, open_store
from stablerep.testing.servers import RedisServer, free_port
from tests.reconciling import count_totals
from tests.tools import redis_program
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


def repair_all(store: Store, queue: Queue) -> None:
    """What a gateway does every few seconds."""
    repair(store, queue, Depth.RECORDS)
    if queue.epoch():
        count_totals(store, queue)


@contextmanager
def at_work(
    store: Store, queue_of: Callable[[], Queue], workers: int = 3, seconds_a_shard: float = 0
) -> Iterator[threading.Event]:
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
            if queue.epoch() is None:
                repair(store, queue)
            time.sleep(0.01)
            return
        if lease.shard % 8 == 3 and (lease.dataset, lease.shard) not in failed:
            failed.add((lease.dataset, lease.shard))
            queue.fail(lease, "the first time")
            return
        time.sleep(seconds_a_shard)
        made = make_shard(store, lease)
        while not stop.is_set():  # as the uploader does: what is committed is reported, however long it takes
            try:
                queue.complete(lease, **made)
                return
            except Unavailable:
                time.sleep(0.01)

    def look(queue: Queue) -> None:
        repair_all(store, queue)
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


def lease_of(queue: Queue, shard: int) -> Lease:
    """A lease of this shard; others that come first are released once it is there."""
    others: list[Lease] = []
    while True:
        lease = queue.lease("w", 60)
        if lease is None:
            time.sleep(0.01)
        elif lease.shard != shard:
            others.append(lease)
        else:
            for other in others:
                queue.release(other)
            return lease


def has_failed(queue: Queue, dataset: str) -> bool:
    return queue.state(dataset) is JobState.FAILED and not queue.inspect()


def wait_for(condition: Callable[[], bool], seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while True:
        try:
            if condition():
                return
        except (Unavailable, NotFound, redis.RedisError):
            pass
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


DELETE_AT_WORK = """
local state = redis.call('HGET', 'sr:job:' .. ARGV[1], 'state')
if state ~= 'PLANNING' and state ~= 'RUNNING' then return 0 end
return redis.call('DEL', KEYS[1])
"""


@KINDS
def test_keys_deleted_at_random_moments_fifty_times(store: Store, redis_server: RedisServer) -> None:
    """Each deletion removes a key that is there, of a job at work: the kind removed least often first."""
    chance = random.Random(redis_server.url)
    queue, server = Queue(redis_server.url, retry_seconds=0.05), redis.Redis.from_url(redis_server.url)
    queue.begin_epoch()
    deleted = dict.fromkeys((*JOB_KEYS, *SHARED_KEYS), 0)
    number = 0
    with at_work(store, lambda: Queue(redis_server.url, retry_seconds=0.05), seconds_a_shard=0.05):
        while sum(deleted.values()) < 50:
            assert number < 100, deleted
            dataset = f"job{number}"
            number += 1
            submit(store, queue, dataset)
            for _ in range(5):
                time.sleep(chance.random() * 0.1)
                for kind in sorted(deleted, key=lambda kind: (deleted[kind], chance.random())):
                    key = f"sr:{kind}:{dataset}" if kind in JOB_KEYS else f"sr:{kind}"
                    if server.eval(DELETE_AT_WORK, 1, key, dataset):
                        deleted[kind] += 1
                        break
            check_exact(store, queue, dataset)
        for earlier in range(number):
            check_exact(store, queue, f"job{earlier}")
    rare = {
        "retry",
        "dead",
    }  # idle workers lease a retried shard in the step that puts it back; none dies here
    assert {kind for kind, times in deleted.items() if not times} <= rare, deleted
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
        held = [lease for _ in range(5) if (lease := queue.lease("w", 60))]
        queue.complete(held[0], **make_shard(store, held[0]))
        queue.fail(held[1], "once")
        queue.release(held[2])
        dies = held[3]
        while queue.fail(dies, "always") is not FailOutcome.DEAD:
            dies = lease_of(queue, dies.shard)
        record_dead(store, queue, dataset)
        if loss == "sr:retry:DATASET":  # the leases above have taken what was there
            queue.release(held[4])
        if loss == "group":
            assert server.xgroup_destroy("sr:ready", "generators")
        else:
            assert server.delete(loss.replace("DATASET", dataset)) == 1, loss
        with at_work(store, lambda: Queue(redis_server.url, retry_seconds=0.01), workers=1):
            wait_for(partial(has_failed, queue, dataset))
            assert queue.dead(dataset) == {dies.shard: "always"}
            retry_job(store, queue, dataset)
            check_exact(store, queue, dataset)
            check_exact(store, queue, "over")
        assert queue.inspect() == []
    queue.close()


@KINDS
@pytest.mark.parametrize("loss", [*JOB_KEYS, "ready", "group", "backlog", "jobs", "epoch"])
def test_no_step_breaks_on_a_queue_that_lost_a_key(redis_server: RedisServer, loss: str) -> None:
    """Whatever comes before the next inspection is answered, or refused as `Unavailable` or `NotFound`."""
    steps: dict[str, Callable[[Queue, Lease], object]] = {
        "lease": lambda queue, _: queue.lease("other", 60),
        "renew": lambda queue, lease: queue.renew(lease),
        "complete": lambda queue, lease: queue.complete(lease, groups=1, images=1, skipped=0),
        "fail": lambda queue, lease: queue.fail(lease, "boom"),
        "release": lambda queue, lease: queue.release(lease),
        "retry": lambda queue, lease: queue.retry(lease.dataset),
        "plan": lambda queue, lease: queue.set_planned(lease.dataset, 9),
        "pause": lambda queue, lease: queue.set_state(lease.dataset, JobState.PAUSED),
        "shards": lambda queue, lease: queue.shards(lease.dataset, 0, 9),
        "status": lambda queue, lease: queue.status(lease.dataset),
        "stats": lambda queue, _: queue.stats(),
        "deregister": lambda queue, _: queue.deregister_worker("w"),
        "inspect": lambda queue, _: queue.inspect(),
    }
    server, broken = redis.Redis.from_url(redis_server.url), []
    for (name, step), retry_seconds in itertools.product(steps.items(), (0, 60)):  # put back at once; delayed
        queue = Queue(redis_server.url, waiting=1, retry_seconds=retry_seconds)
        server.flushall()
        queue.begin_epoch()
        queue.add_job("job")
        queue.set_planned("job", 8)
        failed, lease = lease_of(queue, 0), lease_of(queue, 1)
        queue.fail(failed, "once")
        if loss == "group":
            server.xgroup_destroy("sr:ready", "generators")
        else:
            server.delete(f"sr:{loss}:job" if loss in JOB_KEYS else f"sr:{loss}")
        try:
            step(queue, lease)
        except (Unavailable, NotFound):
            pass
        except redis.RedisError as error:
            broken.append(f"{name}: {error}")
        queue.close()
    assert broken == []


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
        wait_for(lambda: servers.server(1).info("replication")["master_link_status"] == "up")
        wait_for(lambda: len(servers.server(2).execute_command("SENTINEL", "replicas", "main")) == 1)
        queue = Queue(servers.url, retry_seconds=0.05)
        queue.begin_epoch()
        with at_work(store, lambda: Queue(servers.url, retry_seconds=0.05)):
            submit(store, queue, "first")
            wait_for(lambda: bool(servers.server(2).execute_command("SENTINEL", "failover", "main")))
            wait_for(lambda: servers.server(0).info("replication")["role"] == "slave")
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
        wait_for(lambda: bool(server.ping()))
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


class Listings:
    """A store that notes which jobs' indexes were listed."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.listed: list[str] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def children(self, prefix: str = "") -> Iterator[str]:
        if prefix.endswith("/index/"):
            self.listed.append(prefix.split("/")[1])
        return self._store.children(prefix)


@KINDS
@pytest.mark.parametrize("loss", ["job", "done"])
def test_a_damaged_job_is_restored_alone(store: Store, redis_server: RedisServer, loss: str) -> None:
    """The others are not even listed, and every lease survives: of theirs, and of its own."""
    queue, server = Queue(redis_server.url, waiting=3), redis.Redis.from_url(redis_server.url)
    queue.begin_epoch()
    leases = {}
    for dataset in ("damaged", "whole"):
        submit(store, queue, dataset, priority=int(dataset == "damaged"))
        done, leases[dataset] = queue.lease("w", 60), queue.lease("w", 60)
        assert done is not None
        queue.complete(done, **make_shard(store, done))
    before = queue.status("whole")
    assert server.delete(f"sr:{loss}:damaged")
    listings = Listings(store)
    repair(cast(Store, listings), queue)
    assert listings.listed == ["damaged"]
    assert queue.status("whole") == before
    assert [queue.renew(lease) for lease in leases.values()] == [RenewOutcome.HELD] * 2
    assert queue.inspect() == []
    taken = []
    while lease := queue.lease("w", 60):
        taken.append((lease.dataset, lease.shard))
        queue.complete(lease, **make_shard(store, lease))
    assert len(taken) == len(set(taken)) == 2 * (SHARDS - 2), (
        "a shard that waited in the stream is leased once"
    )
    for lease in leases.values():
        queue.complete(lease, **make_shard(store, lease))
    count_totals(store, queue)
    for dataset in leases:
        check_exact(store, queue, dataset)
    queue.close()
