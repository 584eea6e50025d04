"""Planning in the background: a few threads, a job in each, and a lock so that two replicas plan none twice.

Planning twice would be harmless (the same captions give the same objects), only wasteful, so the lock may be
as simple as a key that expires. Every gateway looks now and then for jobs that nobody plans any more, and
first whether Redis has lost everything (rebuild.py).
"""

import asyncio
import logging
import secrets
import threading
import time
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from functools import partial
from types import TracebackType
from typing import Any

import redis.asyncio

from services.process.logs import about
from stablerep.captions.remote.access import STORE_ONLY, Remote
from stablerep.errors import StableRepError, TornObject
from stablerep.jobs.planning.plan import fail_planning, plan
from stablerep.jobs.recovery.backfill import backfill_totals
from stablerep.jobs.recovery.rebuild import ensure_queue, restore_absent
from stablerep.jobs.recovery.sync import sync_all_from_store
from stablerep.queue.client import Queue
from stablerep.storage.interface import Store

logger = logging.getLogger("stablerep.gateway")

LOCK_SECONDS = 5.0
POLL_SECONDS = 2.0
"""Between looks for jobs without a planner; those of a gateway that died wait for its lock to run out."""
STORE_LOOK_SECONDS = 60.0
"""Between looks for jobs of the store that the queue has not, as their gateway died before it told it."""
MAX_TORN = 5
"""Attempts in a row at a source that is as it was and yet cannot be read; then the job fails."""
_IF_MINE = "if redis.call('GET', KEYS[1]) ~= ARGV[1] then return 0 end "
_RENEW = _IF_MINE + "return redis.call('PEXPIRE', KEYS[1], ARGV[2])"
_RELEASE = _IF_MINE + "return redis.call('DEL', KEYS[1])"


class Planners:
    """An `async with` block during which jobs are planned; at its end planning stops at a shard boundary.

    Args:
        threads: jobs planned at one time.
        remote: the URLs besides the store's that captions may be read from.
    """

    def __init__(
        self, store: Store, queue: Queue, redis_url: str, *, threads: int, remote: Remote = STORE_ONLY
    ) -> None:
        self._store = store
        self._remote = remote
        self._queue = queue
        self._redis: Any = redis.asyncio.Redis.from_url(redis_url, decode_responses=True, socket_timeout=5)
        self._token = secrets.token_hex(8)
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="planner")
        self._free = asyncio.Semaphore(threads)
        self._stop = threading.Event()
        self._planning: dict[str, asyncio.Task[None]] = {}
        self._broken: set[str] = set()
        self._torn: dict[str, int] = {}
        self._looking: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Planners":
        self._looking = [
            asyncio.create_task(self._look_for_work()),
            asyncio.create_task(self._count_again()),
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for looking in self._looking:
            looking.cancel()
        await asyncio.gather(*self._planning.values(), return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)
        await self._redis.aclose()

    def submit(self, dataset: str) -> None:
        """Plans a job soon, unless this process does so already."""
        if dataset not in self._planning and not self._stop.is_set():
            # In a context of its own: its log lines are not about the call that asked for it.
            task = asyncio.create_task(self._plan(dataset), context=Context())
            self._planning[dataset] = task
            task.add_done_callback(lambda _: self._planning.pop(dataset, None))

    async def _look_for_work(self) -> None:
        store_seen = float("-inf")
        while True:
            try:
                if await asyncio.to_thread(ensure_queue, self._store, self._queue, self._stop):
                    if time.monotonic() - store_seen > STORE_LOOK_SECONDS:
                        await asyncio.to_thread(restore_absent, self._store, self._queue)
                        await asyncio.to_thread(sync_all_from_store, self._store, self._queue)
                        store_seen = time.monotonic()
                    for dataset in await asyncio.to_thread(self._planning_in_queue):
                        if dataset not in self._broken:
                            self.submit(dataset)
            except StableRepError as error:
                logger.warning("cannot look for jobs to plan: %s", error)
            await asyncio.sleep(POLL_SECONDS)

    async def _count_again(self) -> None:
        """Counts what the finished shards of jobs hold that were restored from the store."""
        while True:
            try:
                await asyncio.to_thread(backfill_totals, self._store, self._queue, self._stop)
            except StableRepError as error:
                logger.warning("cannot count what shards hold: %s", error)
            await asyncio.sleep(POLL_SECONDS)

    def _planning_in_queue(self) -> Iterable[str]:
        return sorted(self._queue.run_script("planning"))

    async def _plan(self, dataset: str) -> None:
        async with self._free:
            if not self._stop.is_set():
                with about(job=dataset):
                    await self._plan_watched(dataset)

    async def _plan_watched(self, dataset: str) -> None:
        try:
            await self._plan_locked(dataset)
            self._torn.pop(dataset, None)
        except TornObject as error:
            await self._torn_again(dataset, error)
        except (StableRepError, redis.RedisError) as error:
            logger.warning("planning of %s stopped, to be taken up again: %s", dataset, error)
        except Exception:
            self._broken.add(dataset)  # a fault of ours: only CreateJob and a restart try again
            logger.exception("planning of %s failed", dataset)

    async def _torn_again(self, dataset: str, error: TornObject) -> None:
        self._torn[dataset] = self._torn.get(dataset, 0) + 1
        logger.warning("planning of %s stopped, to be taken up again: %s", dataset, error)
        if self._torn[dataset] >= MAX_TORN:
            del self._torn[dataset]
            try:
                await asyncio.to_thread(fail_planning, self._store, self._queue, dataset, str(error))
            except StableRepError as away:
                logger.warning("%s could not be failed, to be tried again: %s", dataset, away)

    async def _plan_locked(self, dataset: str) -> None:
        key = f"sr:planning:{dataset}"
        if not await self._redis.set(key, self._token, nx=True, px=round(LOCK_SECONDS * 1000)):
            return
        stop = _StopSign(self._stop)
        renewing = asyncio.create_task(self._renew(key, stop))
        try:
            loop = asyncio.get_running_loop()
            planning = partial(plan, self._store, self._queue, dataset, stop, self._remote)
            logger.info("planning begins")
            await loop.run_in_executor(self._threads, copy_context().run, planning)
            logger.info("planning ended")
        finally:
            renewing.cancel()
            await self._redis.eval(_RELEASE, 1, key, self._token)

    async def _renew(self, key: str, stop: "_StopSign") -> None:
        """Keeps the lock; when it was lost, another gateway plans the job and this one stops."""
        while True:
            await asyncio.sleep(LOCK_SECONDS / 3)
            try:
                if not await self._redis.eval(_RENEW, 1, key, self._token, round(LOCK_SECONDS * 1000)):
                    stop.set()
            except redis.RedisError as error:
                logger.warning("cannot renew %s: %s", key, error)


class _StopSign:
    """Of one job's planning: set with that of the process, or alone when the job's lock was lost."""

    def __init__(self, process: threading.Event) -> None:
        self._process = process
        self._lost = threading.Event()

    def set(self) -> None:
        self._lost.set()

    def is_set(self) -> bool:
        return self._lost.is_set() or self._process.is_set()
