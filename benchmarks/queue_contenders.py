"""The queues that are compared: ours, plain lists in Redis with a list of what is in work, and dramatiq."""

import importlib
import importlib.util
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import redis

from stablerep.queue.client import Queue

LEASE_SECONDS = 60.0


class Contender(Protocol):
    """One queue: `enqueue` is called once, `work` by every thread until all shards are done."""

    def enqueue(self, shards: int) -> None: ...

    def work(self, name: str) -> None: ...

    def done(self) -> int: ...


class Stablerep:
    """Leases that run out and are reclaimed, priorities, dead letters, each shard counted once."""

    def __init__(self, url: str, workers: int) -> None:
        self._queue = Queue(url)

    def enqueue(self, shards: int) -> None:
        self._queue.begin_epoch()
        self._queue.add_job("bench")
        self._queue.set_planned("bench", shards)
        self._queue.finish_planning("bench")

    def work(self, name: str) -> None:
        while True:
            lease = self._queue.lease(name, LEASE_SECONDS)
            if lease is not None:
                self._queue.complete(lease, groups=16, images=64, skipped=0)
            elif self._queue.state("bench").final:
                return
            else:
                time.sleep(0.02)

    def done(self) -> int:
        return self._queue.counts("bench").done


class Lists:
    """LMOVE from waiting to working, LREM when done; what a dead worker had stays in `working` for ever."""

    def __init__(self, url: str, workers: int) -> None:
        self._redis: Any = redis.Redis.from_url(url, decode_responses=True)

    def enqueue(self, shards: int) -> None:
        for start in range(0, shards, 1000):
            self._redis.lpush("waiting", *range(start, min(start + 1000, shards)))

    def work(self, name: str) -> None:
        while (shard := self._redis.lmove("waiting", "working", "RIGHT", "LEFT")) is not None:
            with self._redis.pipeline(transaction=True) as pipe:
                pipe.lrem("working", -1, shard)
                pipe.incr("done")
                pipe.execute()

    def done(self) -> int:
        return int(self._redis.get("done") or 0)


class Dramatiq:
    """A task queue on Redis lists and Lua; acknowledges after the work, retries what a dead worker held."""

    def __init__(self, url: str, workers: int) -> None:
        self._dramatiq: Any = importlib.import_module("dramatiq")
        broker: Any = importlib.import_module("dramatiq.brokers.redis")
        self._redis: Any = redis.Redis.from_url(url, max_connections=workers + 50)
        self._broker = broker.RedisBroker(client=redis.Redis.from_url(url, max_connections=workers + 50))
        self._broker.middleware = []
        self._finished = threading.Event()
        self._started = threading.Lock()
        self._workers = workers

        def make(shard: int) -> None:
            self._redis.incr("done")

        self._actor: Any = self._dramatiq.actor(make, broker=self._broker, actor_name="make")

    def enqueue(self, shards: int) -> None:
        self._redis.set("wanted", shards)
        for shard in range(shards):
            self._actor.send(shard)

    def work(self, name: str) -> None:
        """The first thread runs the worker, whose own threads are as many as there would be of ours."""
        if not self._started.acquire(blocking=False):
            return
        worker = self._dramatiq.Worker(self._broker, worker_threads=self._workers)
        worker.start()
        while self.done() < int(self._redis.get("wanted")):
            time.sleep(0.05)
        worker.stop()

    def done(self) -> int:
        return int(self._redis.get("done") or 0)


CONTENDERS: dict[str, Callable[[str, int], Contender]] = {"stablerep": Stablerep, "lists": Lists}
if importlib.util.find_spec("dramatiq"):  # no dependency of ours: pip install 'dramatiq[redis]' to compare
    CONTENDERS["dramatiq"] = Dramatiq
