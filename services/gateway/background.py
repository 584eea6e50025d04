"""Planning in the background: a few threads, a job in each, and a lock so that two replicas plan none twice.

Planning twice would be harmless (the same captions give the same objects), only wasteful. Every gateway polls
for jobs that nobody plans any more, after checking whether Redis has lost data (recovery/repair.py).
"""

import asyncio
import logging
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextvars import Context, copy_context
from types import TracebackType

from services.gateway.manifests import Manifests
from services.process.logs import about
from services.process.loops import forever, log_unexpected, surviving
from stablerep.captions.remote.access import STORE_ONLY, Remote
from stablerep.errors import StableRepError, TornObject, Unavailable
from stablerep.jobs.planning.plan import fail_planning, plan
from stablerep.jobs.recovery.repair import Depth, repair
from stablerep.queue.client import Queue
from stablerep.queue.lock import Lock, hold
from stablerep.storage.interface import Store

logger = logging.getLogger("stablerep.gateway")

LOCK_SECONDS = 5.0
POLL_SECONDS = 2.0
"""Between two polls for jobs without a planner; those of a dead gateway wait until its lock expires."""
INSPECT_SECONDS = 10.0
"""Between two inspections of the queue for keys that were lost."""
RECORDS_SECONDS = 60.0
"""Between two comparisons of the queue with the jobs' records in the store."""
MANIFEST_SECONDS = 5.0
"""Between two looks for shards that the manifest of their dataset does not hold yet."""
MAX_TORN = 5
"""Attempts in a row at a source that is unchanged and yet cannot be read; then the job fails."""


class Planners:
    """An `async with` block during which jobs are planned; at its end planning stops at a shard boundary.

    Args:
        threads: jobs planned at one time.
        remote: the URLs besides the store's that captions may be read from.
    """

    def __init__(self, store: Store, queue: Queue, *, threads: int, remote: Remote = STORE_ONLY) -> None:
        self._store = store
        self._remote = remote
        self._queue = queue
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="planner")
        self._stop = threading.Event()
        self._planning: dict[str, asyncio.Task[None]] = {}
        self._torn: dict[str, int] = {}
        self._inspected = self._compared = float("-inf")
        self._knows_policy = False
        self._manifests = Manifests(store, queue, self._stop)
        self._loops: list[asyncio.Task[None]] = []

    async def __aenter__(self) -> "Planners":
        rounds = {
            "planning": (self._find_work, POLL_SECONDS),
            "totals": (self._count_totals, POLL_SECONDS),
            "manifests": (self._manifests.round, MANIFEST_SECONDS),
        }
        self._loops = [
            asyncio.create_task(forever(name, round, seconds), name=name)
            for name, (round, seconds) in rounds.items()
        ]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        for loop in self._loops:
            loop.cancel()
        await asyncio.gather(*self._planning.values(), return_exceptions=True)
        await asyncio.to_thread(self._threads.shutdown)

    def problem(self) -> str:
        """Names a loop that has ended, for the liveness probe; empty while all run."""
        ended = [loop.get_name() for loop in self._loops if loop.done() and not self._stop.is_set()]
        return f"the loop {', '.join(ended)} has ended" if ended else ""

    def submit(self, dataset: str) -> None:
        """Plans a job soon, unless this process does so already."""
        if dataset not in self._planning and not self._stop.is_set():
            # In a context of its own: its log lines are not about the call that asked for it.
            task = asyncio.create_task(self._plan(dataset), context=Context())
            self._planning[dataset] = task
            task.add_done_callback(lambda _: self._planning.pop(dataset, None))

    async def _find_work(self) -> None:
        if (await self._epoch_ended()) or time.monotonic() - self._inspected > INSPECT_SECONDS:
            await self._repair(Depth.KEYS)
            self._inspected = time.monotonic()
            if await self._epoch_ended():
                return  # another process restores it
        await self._check_policy()
        if time.monotonic() - self._compared > RECORDS_SECONDS:
            await self._repair(Depth.RECORDS)
            self._compared = time.monotonic()
        for dataset in sorted(await asyncio.to_thread(self._queue.run_script, "planning")):
            self.submit(dataset)

    async def _check_policy(self) -> None:
        if not self._knows_policy:
            self._knows_policy = True
            try:
                policy = await asyncio.to_thread(self._queue.eviction_policy)
            except Unavailable as error:  # a user without the right to ask still has jobs to plan
                logger.warning("the queue server's maxmemory-policy could not be read: %s", error)
                return
            if policy != "noeviction":
                logger.warning(
                    "the queue server may evict keys of the queue (maxmemory-policy %s); set noeviction",
                    policy,
                )

    async def _count_totals(self) -> None:
        """Counts what the finished shards hold of jobs that were restored from the store."""
        for dataset in sorted(await asyncio.to_thread(self._queue.run_script, "uncounted")):
            await self._repair(Depth.SHARDS, dataset)

    async def _epoch_ended(self) -> bool:
        return await asyncio.to_thread(self._queue.epoch) is None

    async def _repair(self, depth: Depth, dataset: str = "") -> None:
        await asyncio.to_thread(repair, self._store, self._queue, depth, dataset, stop=self._stop)

    async def _plan(self, dataset: str) -> None:
        loop = asyncio.get_running_loop()
        with about(job=dataset):
            await loop.run_in_executor(self._threads, copy_context().run, self._plan_in_thread, dataset)

    def _plan_in_thread(self, dataset: str) -> None:
        with surviving("planning"):
            try:
                self._plan_locked(dataset)
                self._torn.pop(dataset, None)
            except TornObject as error:
                self._torn[dataset] = self._torn.get(dataset, 0) + 1
                if self._torn[dataset] < MAX_TORN:
                    raise
                del self._torn[dataset]
                fail_planning(self._store, self._queue, dataset, str(error))
            except StableRepError:
                raise
            except Exception as error:  # noqa: BLE001 - the job must end with it, not stay PLANNING
                number = log_unexpected("planning", error)
                text = f"unexpected error {number} while planning ({type(error).__name__}: {error}); "
                fail_planning(
                    self._store, self._queue, dataset, f"{text}the gateway's log has it under that number"
                )

    def _plan_locked(self, dataset: str) -> None:
        if self._stop.is_set():
            return
        with hold(self._queue, f"sr:planning:{dataset}", seconds=LOCK_SECONDS) as lock:
            if lock is not None:
                logger.info("planning begins")
                plan(self._store, self._queue, dataset, _StopToken(self._stop, lock), self._remote)
                logger.info("planning ended")


class _StopToken:
    """Of one job's planning: set with that of the process, or once the job's lock was lost."""

    def __init__(self, process: threading.Event, lock: Lock) -> None:
        self._process, self._lock = process, lock

    def is_set(self) -> bool:
        return self._process.is_set() or self._lock.lost
