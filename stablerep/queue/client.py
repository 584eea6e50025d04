"""The queue of shards on Redis Streams: leases, retries, dead letters and exact counts, one Lua step each.

A job's backlog is a cursor, so nothing in Redis grows with the shards that wait. `lease` first refills one
short stream from the jobs' cursors, highest priority first, in turns among equals, then reads from it. Keys:

    sr:epoch            set once every job of the store is here (`begin_epoch`); missing, nothing is leased
    sr:jobs             set of all jobs' names
    sr:ready            stream of at most `waiting` unread entries and the leased ones; group `generators`;
                        an entry names the job's job_uid, so that one of a deleted job is not another's
    sr:backlog          sorted set: jobs that have shards to feed, by priority and turn; sr:turn counts turns
    sr:job:<dataset>    hash: state, priority, planned, next (the cursor), complete (planning over), ...
    sr:done:<dataset>   bitmap, a bit a shard
    sr:leased:<dataset> hash: leased shard -> entry id
    sr:retry:<dataset>  set of shards that were released or wait no longer
    sr:delayed          sorted set: shards that failed, of all jobs, by when they are to be tried again
    sr:failures:<dataset>, sr:dead:<dataset>   hashes with a field for each shard that failed
    sr:rebuild          lock of the process that restores this from the store
    sr:damaged          set: jobs to restore before the next epoch; empty without an epoch: all
    sr:uncounted        set: rebuilt jobs of which it is not yet known what the done shards hold
    sr:stats            hash of events counted for monitoring: errors, lost, dead_lettered, planned

Scripts build key names from datasets' names, and those share no hash tag: Redis Cluster is not supported.
Needs Redis 7.0 or Valkey.
"""

import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib import resources
from typing import Any

import redis
from redis.backoff import ExponentialBackoff
from redis.retry import Retry

from stablerep.errors import InvalidInput, NotFound, Unavailable
from stablerep.queue.connection import connect
from stablerep.queue.leases import (
    FailOutcome,
    JobStatus,
    Lease,
    RenewOutcome,
    ShardFailures,
    ShardState,
    ShardStatus,
    read_status,
)
from stablerep.queue.states import Counts, JobState
from stablerep.queue.stats import QueueStats, read_stats

MAX_ERRORS = 3
MAX_LOST = 20  # workers on spot nodes vanish without the shard's being to blame
RETRY_SECONDS = 5.0
"""Before a shard that failed is tried again; `_RETRY_FACTOR` times that after its second error."""
_RETRY_FACTOR = 4
_ERROR_LENGTH = 500  # some failing jobs have a million of them
_STEPS_AT_ONCE = 10_000  # of a search for shards, so as not to hold the server: some 10 ms
_MAX_INSPECTED = 20_000  # shards of a job; beyond that its bitmap and its fields are inspected alone
_REBUILDING = "Redis has lost its data, the queue is being rebuilt from the store; try again in a moment"
# The steps of a rebuild itself, and those that change nothing without an epoch.
_UNGUARDED = {
    "lease.lua",
    "stats.lua",
    "workers.lua",
    "inspect.lua",
    "uncounted.lua",
    "lock.lua",
    "restore.lua",
    "restore_dead.lua",
    "begin_rebuild.lua",
    "begin_epoch.lua",
}
# Answers of a server that cannot serve just now, as opposed to those to a command that is wrong. They come
# before a script's first write, so that no step is left half done. redis-py takes the first word off some,
# and puts words of its own before those to a command in a pipeline.
_REFUSALS = re.compile(
    r"(^|caused error: )(OOM|MISCONF|READONLY|LOADING|BUSY|NOREPLICAS|MASTERDOWN|CLUSTERDOWN|REBUILDING"
    r"|DENIED|NOAUTH|NOPERM)\b"
)
# Answers of a server that is the primary no more, or not yet: another one may be, under the same name.
_DEMOTED = re.compile(r"\b(READONLY|LOADING|MASTERDOWN|CLUSTERDOWN)\b")


class Queue:
    """Connects when first used. Every method may raise `Unavailable`; those that name a job, `NotFound`.

    Args:
        redis_url: `redis://[:password@]host:port/number`, `rediss://` for TLS, or
            `redis+sentinel://[:password@]host:port,host:port/service/number`.
        waiting: most unread entries in the ready stream. Few, for an entry already there is served before one
            of a job of higher priority; each `lease` refills it, so that even 1 starves no worker.
        retry_seconds: wait before a shard that failed with an error is leased again; others go on meanwhile.
    """

    def __init__(self, redis_url: str, *, waiting: int = 8, retry_seconds: float = RETRY_SECONDS) -> None:
        self._redis: Any = connect(
            redis_url,
            decode_responses=True,
            socket_connect_timeout=5,
            socket_timeout=20,
            health_check_interval=30,
            # Each script may be repeated: it changes nothing when its lease is gone or its bit is set.
            retry=Retry(ExponentialBackoff(cap=1, base=0.05), retries=3),
            retry_on_error=[redis.ConnectionError, redis.TimeoutError],
        )
        self._waiting = waiting
        self._retry_ms = round(retry_seconds * 1000)
        self._scripts = {name: self._redis.register_script(text) for name, text in _script_texts().items()}

    def close(self) -> None:
        """Closes the connections."""
        self._redis.close()

    def epoch(self) -> str | None:
        """Identifies one life of the Redis data; None until all jobs of the store are here."""
        with self._reaching():
            return self._redis.get("sr:epoch")

    def begin_epoch(self, token: str = "") -> str:
        """Lets shards be leased: the last step of a rebuild from the store. Returns the epoch, old or new.

        Args:
            token: of the lock "sr:rebuild", which must be held still. Empty: there was nothing to rebuild.
        """
        return str(self.run_script("begin_epoch", token, secrets.token_hex(8)))

    def add_job(self, dataset: str, *, priority: int = 0, job_uid: str = "", shard_images: int = 1) -> bool:
        """Adds a job in PLANNING with no shards; False, and nothing is changed, when it is there already.

        Args:
            job_uid: distinguishes it from others of its name; empty: a random one. One that the
                store knows too keeps leases good for `complete` over a rebuild.
            shard_images: images in one shard, by which jobs' times are estimated.
        """
        uid = job_uid or secrets.token_hex(4)
        return self._run("add_job", dataset, priority, uid, shard_images) == 1

    def job_uid(self, dataset: str) -> str:
        """Distinguishes the job from others of its name. Raises `NotFound`."""
        with self._reaching():
            job_uid = self._redis.hget(f"sr:job:{dataset}", "job_uid")
        return str(self._found(dataset, job_uid))

    def set_planned(self, dataset: str, planned: int) -> JobState:
        """Shards 0..planned-1 may be leased from now on. Returns the state; a final one ignores them."""
        return self._job_step("set_planned", dataset, planned, 0)

    def finish_planning(self, dataset: str) -> JobState:
        """There will be no more shards: PLANNING becomes RUNNING, or final when all is done already."""
        return self._job_step("set_planned", dataset, 0, 1)

    def set_state(self, dataset: str, state: JobState, error: str = "") -> JobState:
        """Moves a job to a state, which final ones never leave; returns the one it has then.

        Args:
            error: why it fails; needed with FAILED, and kept for those who ask.
        """
        if state is JobState.FAILED and not error:
            raise InvalidInput("say why the job fails", field="error")
        return self._job_step("set_state", dataset, state.value, _text(error))

    def state(self, dataset: str) -> JobState:
        """The job's state."""
        with self._reaching():
            state = self._redis.hget(f"sr:job:{dataset}", "state")
        return JobState(self._found(dataset, state))

    def counts(self, dataset: str) -> Counts:
        """Where the job's shards are, each in one place."""
        return self.status(dataset).counts

    def status(self, dataset: str) -> JobStatus:
        """State, counts and times of a job."""
        status: JobStatus = self._found(dataset, self.statuses([dataset])[0])
        return status

    def statuses(self, datasets: Sequence[str]) -> list[JobStatus | None]:
        """State, counts and times of many jobs, in one call; None for one that there is not."""
        # Done is the bitmap's own count. Leased is the length of a hash that the scripts change in the very
        # step that changes an entry's owner, so it cannot drift from it; the stream's pending list would give
        # it only after a look at every worker's entry, whatever its job.
        with self._reaching(), self._redis.pipeline(transaction=True) as pipe:
            for dataset in datasets:
                pipe.hgetall(f"sr:job:{dataset}")
                pipe.bitcount(f"sr:done:{dataset}")
                pipe.hlen(f"sr:leased:{dataset}")
                pipe.hlen(f"sr:dead:{dataset}")
            found = pipe.execute()
        return [read_status(*found[at : at + 4]) if found[at] else None for at in range(0, len(found), 4)]

    def jobs(self) -> list[str]:
        """Names of all jobs, sorted."""
        with self._reaching():
            return sorted(self._redis.smembers("sr:jobs"))

    def ends(self) -> dict[str, str]:
        """When each job that is over ended, in seconds, as text: another text, another end."""
        names = self.jobs()
        with self._reaching(), self._redis.pipeline(transaction=False) as pipe:
            for name in names:
                pipe.hget(f"sr:job:{name}", "end_time")
            return {name: end for name, end in zip(names, pipe.execute(), strict=True) if end}

    def failures(self, dataset: str) -> dict[int, ShardFailures]:
        """Shards not yet done that have failed or lost a lease, and how often."""
        found: dict[int, dict[str, Any]] = {}
        with self._reaching():
            fields = self._redis.hgetall(f"sr:failures:{dataset}")
        for field, value in fields.items():
            shard, kind = field.split(":")
            found.setdefault(int(shard), {})[kind] = value if kind == "error" else int(value)
        return {shard: ShardFailures(**kinds) for shard, kinds in sorted(found.items())}

    def dead(self, dataset: str) -> dict[int, str]:
        """Shards given up, with the last error of each."""
        with self._reaching():
            fields = self._redis.hgetall(f"sr:dead:{dataset}")
        return {int(shard): error for shard, error in sorted(fields.items(), key=lambda item: int(item[0]))}

    def shards(
        self, dataset: str, start: int, count: int, state: ShardState | None = None
    ) -> list[ShardStatus]:
        """The first `count` shards from number `start` on, of one state or all; fewer are the last ones.

        Cheap for any job: among a million shards, those of a state are found by the bitmap and short hashes.
        """
        found: list[ShardStatus] = []
        after = start
        while after >= 0 and len(found) < count:
            most = min(count - len(found), 1000)
            reply = self._run("shards", dataset, after, most, state.value if state else "", _STEPS_AT_ONCE)
            after, *rows = self._found(dataset, reply)
            for number, name, worker, errors, lost, error in rows:
                found.append(
                    ShardStatus(int(number), ShardState(name), worker, int(errors), int(lost), error)
                )
        return found

    def lease(
        self, worker: str, lease_seconds: float, *, on_dead_lettered: Callable[[str], None] | None = None
    ) -> Lease | None:
        """A shard to work on, or None when there is none at the moment, or no epoch yet; does not wait.

        Args:
            worker: a name that no other process has; it owns the lease.
            lease_seconds: a lease that is not renewed for this long may go to another worker.
            on_dead_lettered: called with each job of which a shard's lease was found lost once too often.
        """
        before = time.monotonic()
        reply = self._run("lease", worker, _milliseconds(lease_seconds), self._waiting, MAX_LOST)
        dead_lettered, *leased = reply
        if on_dead_lettered is not None:
            for dataset in dict.fromkeys(dead_lettered):
                on_dead_lettered(dataset)
        if not leased:
            return None
        dataset, shard, entry_id, job_uid = leased
        return Lease(dataset, int(shard), entry_id, worker, before + lease_seconds, job_uid)

    def renew(self, lease: Lease) -> RenewOutcome:
        """Renews the lease if it is still the worker's; a lost one stays lost."""
        return RenewOutcome(self._run("renew", lease.dataset, lease.entry_id, lease.worker))

    def complete(self, lease: Lease, *, groups: int, images: int, skipped: int, seconds: float = 0.0) -> bool:
        """Records that the shard's tar and index are in the store; False if it was done before (not counted).

        A lost lease does not matter: the shard is done, whoever did it, and any other lease on it ends.
        `seconds` are those that a worker took to generate it.
        """
        whose, what = (lease.dataset, lease.shard, lease.entry_id), (groups, images, skipped)
        return bool(self._run("complete", *whose, *what, lease.job_uid, round(seconds * 1000)))

    def fail(self, lease: Lease, error: str) -> FailOutcome:
        """Returns the shard with an error, to be retried later; the third error makes it dead.

        Without effect on a lost lease.
        """
        whose = (lease.dataset, lease.shard, lease.entry_id, lease.worker)
        return FailOutcome(self._run("fail", *whose, MAX_ERRORS, _text(error), self._retry_ms, _RETRY_FACTOR))

    def release(self, lease: Lease) -> bool:
        """Releases the shard at once, as if it had not been leased; False when the lease was lost."""
        return bool(self._run("release", lease.dataset, lease.shard, lease.entry_id, lease.worker))

    def retry(self, dataset: str, shards: Iterable[int] = ()) -> JobState:
        """Dead shards may be leased again, those named or all; a job that FAILED by them is RUNNING again.

        Shards that are not dead are passed over; a job cancelled, or failed by its source, stays so.
        """
        return self._job_step("retry", dataset, *shards)

    def remove(self, dataset: str) -> bool:
        """Removes a job and ends its leases; False when it was not there."""
        return bool(self._run("remove", dataset))

    def deregister_worker(self, worker: str) -> None:
        """Removes a stopping worker from the consumer group; release its lease first."""
        self._run("deregister_worker", worker)

    def stats(self) -> QueueStats:
        """How the whole queue is at this moment; a few milliseconds of Redis for 1,000 jobs."""
        return read_stats(self._run("stats"))

    def inspect(self) -> list[str]:
        """Problems that no step leaves behind; with any, the epoch ends until those jobs are restored.

        A few milliseconds of Redis for 1,000 jobs.
        """
        return [str(text) for text in self._run("inspect", _MAX_INSPECTED)]

    def eviction_policy(self) -> str:
        """What the server does when its memory is full; all but "noeviction" may lose keys of the queue."""
        with self._reaching():
            return str(self._redis.info("memory").get("maxmemory_policy", "noeviction"))

    def run_script(self, script: str, *arguments: str | int | bytes) -> Any:
        """Runs a Lua step that has no method of its own; those are of the repair and of lock.py."""
        return self._run(script, *arguments)

    def _job_step(self, script: str, dataset: str, *arguments: str | int) -> JobState:
        return JobState(self._found(dataset, self._run(script, dataset, *arguments)))

    def _found(self, dataset: str, value: Any) -> Any:
        if value:
            return value
        if self.epoch() is None:
            raise Unavailable(_REBUILDING)
        raise NotFound(f"no job {dataset!r} in the queue")

    def _run(self, script: str, *arguments: str | int | bytes) -> Any:
        with self._reaching():
            return self._scripts[script](args=arguments)

    @contextmanager
    def _reaching(self) -> Iterator[None]:
        try:
            yield
        except redis.AuthenticationError as error:
            raise Unavailable(f"Redis at {self._where()} refuses the password: {error}") from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise Unavailable(
                f"cannot reach Redis at {self._where()}: {error}; is it running, and is the redis_url right?"
            ) from error
        except redis.ResponseError as error:
            if isinstance(error, redis.ReadOnlyError) or _DEMOTED.search(str(error)):
                # The next call resolves the name again, and may find the new primary.
                self._redis.connection_pool.disconnect()
            kinds = (redis.OutOfMemoryError, redis.ReadOnlyError)
            if not isinstance(error, kinds) and not _REFUSALS.search(str(error)):
                raise
            raise Unavailable(f"Redis at {self._where()} takes nothing at the moment: {error}") from error

    def _where(self) -> str:
        pool = self._redis.connection_pool
        options = pool.connection_kwargs
        where = options.get("path") or getattr(pool, "service_name", None)
        return str(where or f"{options.get('host')}:{options.get('port')}")


@cache
def _script_texts() -> dict[str, str]:
    folder = resources.files(__package__) / "lua"
    shared = folder / "common.lua"
    texts = {
        file.name: file.read_text(encoding="utf-8")
        for room in folder.iterdir()
        if room.is_dir()
        for file in room.iterdir()
    }
    common, guard = shared.read_text(encoding="utf-8"), texts.pop("guard.lua")
    guarded = {name: "" if name in _UNGUARDED else guard for name in texts}
    return {name.removesuffix(".lua"): common + guarded[name] + text for name, text in texts.items()}


def _milliseconds(lease_seconds: float) -> int:
    if not 0.001 <= lease_seconds <= 86400:
        raise InvalidInput(f"{lease_seconds} is not in 0.001..86400", field="lease_seconds")
    return round(lease_seconds * 1000)


def _text(error: str) -> str:
    return error.encode("utf-8", "replace").decode()[:_ERROR_LENGTH]
