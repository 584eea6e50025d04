"""The shards that a worker has leased: each lease is renewed, and ended once."""

import logging
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from enum import IntEnum

from services.generator.drain import Pace, ReleaseShard
from services.generator.lease_keeper import LeaseKeeper, LeaseOver
from services.generator.metrics import Outcome, count_shard
from services.generator.readiness import Readiness
from services.process.logs import about
from stablerep.captions import Caption
from stablerep.config.recipe import Recipe
from stablerep.errors import StableRepError, Unavailable
from stablerep.jobs.control import record_dead
from stablerep.queue.client import FailOutcome, Lease, Queue, RenewOutcome
from stablerep.shards import Group, ShardIndex
from stablerep.storage import Store

logger = logging.getLogger("stablerep.generator")


class ShardStage(IntEnum):
    """How far a shard is on its way through the worker."""

    FETCHING = 0
    WAITING = 1
    GENERATING = 2
    ENCODING = 3
    UPLOADING = 4


@dataclass(frozen=True)
class Task:
    """What a shard is made of."""

    recipe: Recipe
    seed: int
    captions: list[Caption]


class LeasedShard:
    """One leased shard. The thread whose stage it is in has it to itself; `over` once nobody needs it."""

    def __init__(self, lease: Lease, keeper: LeaseKeeper) -> None:
        self.lease = lease
        self.keeper = keeper
        self.stage = ShardStage.FETCHING
        self.task: Task | None = None
        self.pace: Pace | None = None
        self.generate_seconds = 0.0
        self.groups: list[Group] = []
        self.tar = b""
        self.index: ShardIndex | None = None
        self.over = False

    @property
    def name(self) -> str:
        return f"jobs/{self.lease.dataset}/shards/{self.lease.shard}"

    @property
    def where(self) -> str:
        return f"{self.lease.dataset} shard {self.lease.shard}"


class LeasedShards:
    """All leased shards, oldest first. Any thread may call."""

    def __init__(self, store: Store, queue: Queue, readiness: Readiness, lease_seconds: float) -> None:
        self._store = store
        self._queue = queue
        self._readiness = readiness
        self._lease_seconds = lease_seconds
        self._lock = threading.Lock()
        self._shards: dict[LeasedShard, ExitStack] = {}

    def take(self, lease: Lease) -> LeasedShard:
        """A shard just leased; its lease is renewed from now on."""
        keeping = ExitStack()
        with about(job=lease.dataset, shard=lease.shard):
            keeper = keeping.enter_context(LeaseKeeper(self._queue, lease, self._lease_seconds))
        shard = LeasedShard(lease, keeper)
        with self._lock:
            self._shards[shard] = keeping
        return shard

    def now(self) -> list[LeasedShard]:
        """Those leased now."""
        with self._lock:
            return list(self._shards)

    @contextmanager
    def working_on(self, shard: LeasedShard) -> Iterator[None]:
        """One stage's work. What goes wrong with the shard ends the shard, and not the worker.

        Unexpected errors propagate: the shard's lease then runs out, and counts as lost.
        """
        with about(job=shard.lease.dataset, shard=shard.lease.shard):
            try:
                yield
            except LeaseOver as reason:
                logger.info("%s dropped: %s", shard.where, reason)
                # Takes a cancelled job's entry away; a lost lease is left alone.
                self._let_go(shard, "lost" if reason.renewal is RenewOutcome.LOST else "cancelled")
            except ReleaseShard as reason:
                self.release(shard, reason)
            except Unavailable as error:
                self._readiness.failed()
                self.release(shard, error)  # no fault of the shard's
            except (StableRepError, OSError) as error:
                self._readiness.failed()
                self._fail(shard, error)
            except BaseException:
                self._end(shard)
                raise

    def release(self, shard: LeasedShard, reason: object) -> None:
        """Another worker may have it, at once and without a mark against it."""
        logger.info("%s released: %s", shard.where, reason)
        self._let_go(shard, "handed_back")

    def release_all(self, reason: str) -> None:
        """Of a worker that ends."""
        for shard in self.now():
            self.release(shard, reason)

    def completed(self, shard: LeasedShard, *, first: bool) -> None:
        """It was reported done; `first` if no other worker had done it before."""
        if self._end(shard):
            self._readiness.worked()
            count_shard("done" if first else "lost")

    def record_dead(self, dataset: str, shard: int | None = None) -> None:
        """Copies dead letters into the store; if that fails, the gateway's next look does it."""
        try:
            record_dead(self._store, self._queue, dataset, shard)
        except (StableRepError, OSError) as error:
            logger.warning("dead shards of %s not recorded: %s", dataset, error)

    def _fail(self, shard: LeasedShard, error: Exception) -> None:
        if not self._end(shard):
            return
        try:
            outcome = self._queue.fail(shard.lease, f"{type(error).__name__}: {error}")
        except Unavailable as away:
            logger.warning("%s failed (%s), which could not be reported: %s", shard.where, error, away)
            return
        logger.warning("%s failed (%s): %s", shard.where, outcome, error)
        counted: dict[FailOutcome, Outcome] = {FailOutcome.RETRY: "retry", FailOutcome.DEAD: "dead"}
        count_shard(counted.get(outcome, "lost"))
        if outcome is FailOutcome.DEAD:
            self.record_dead(shard.lease.dataset, shard.lease.shard)

    def _let_go(self, shard: LeasedShard, outcome: Outcome) -> None:
        if not self._end(shard):
            return
        count_shard(outcome)
        try:
            self._queue.release(shard.lease)
        except Unavailable as error:
            logger.warning("%s could not be released, its lease runs out: %s", shard.where, error)

    def _end(self, shard: LeasedShard) -> bool:
        """False when it is over already."""
        with self._lock:
            keeping = self._shards.pop(shard, None)
        if keeping is None:
            return False
        shard.over = True
        shard.task, shard.groups, shard.tar = None, [], b""
        keeping.close()
        return True
