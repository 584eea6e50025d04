"""How the whole queue is at one moment: what monitoring and scaling on the backlog look at."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

from stablerep.queue.states import JobState

LEASABLE = (JobState.PLANNING, JobState.RUNNING)
SEEN_SECONDS = 120.0
"""A worker that leased or renewed nothing for so long is not counted; twice the default lease."""
PACE_SECONDS = 900.0
"""A pace without a completed shard for this long is none."""


@dataclass(frozen=True)
class JobBacklog:
    """Where the shards of a job that is not over are."""

    dataset: str
    state: JobState
    waiting: int
    leased: int
    done: int
    dead: int
    priority: int = 0
    shard_images: int = 1
    """Images in one shard."""
    planned_all: bool = True
    turn: float = -1
    """Orders jobs that have shards to feed by priority, then by whose turn it is; -1: it has none."""


@dataclass(frozen=True)
class QueueStats:
    """All jobs together, and those that are not over one by one.

    Attributes:
        jobs: the jobs that are not over, the largest backlog first.
        job_states: how many jobs there are, by state.
        dead_shards: dead letters of all jobs, also of those that are over.
        oldest_lease_seconds: since the oldest leased shard was put up for lease; 0 when none is leased. That
            is a little before it was taken, and a lost lease that is taken over keeps its age.
        busy_workers, idle_workers: seen in the last `SEEN_SECONDS`, with and without a lease.
        errors, leases_lost, dead_lettered, planned: events since Redis was empty: shards that
            failed with an error, leases that ran out, shards given up, shards planned.
    """

    jobs: tuple[JobBacklog, ...]
    job_states: dict[JobState, int]
    dead_shards: int
    oldest_lease_seconds: float
    busy_workers: int
    idle_workers: int
    errors: int
    leases_lost: int
    dead_lettered: int
    planned: int
    images_per_second: float | None = None
    """Completed by all workers together, of late; None if nothing was in the last quarter of an hour."""

    @property
    def depth(self) -> int:
        """Shards that workers could be busy with: waiting or in flight, of jobs that are not paused."""
        return sum(job.waiting + job.leased for job in self.jobs if job.state in LEASABLE)


def read_stats(text: str) -> QueueStats:
    """The JSON of stats.lua."""
    found = json.loads(text)
    # Lua's JSON writes an empty list as an empty map.
    jobs = [_backlog(*row) for row in found["jobs"] or ()]
    states = Counter(job.state for job in jobs)
    states.update({JobState(state): count for state, count in (found["ended"] or {}).items()})
    seen = [leases for leases, idle in found["workers"] or () if idle <= SEEN_SECONDS * 1000]
    stats = found["stats"] or {}
    return QueueStats(
        jobs=tuple(sorted(jobs, key=lambda job: (-job.waiting - job.leased, job.dataset))),
        job_states={state: states[state] for state in JobState},
        dead_shards=found["dead"],
        oldest_lease_seconds=found["oldest_lease"] / 1000,
        busy_workers=sum(leases > 0 for leases in seen),
        idle_workers=sum(leases == 0 for leases in seen),
        errors=stats.get("errors", 0),
        leases_lost=stats.get("lost", 0),
        dead_lettered=stats.get("dead_lettered", 0),
        planned=stats.get("planned", 0),
        images_per_second=_pace(stats, found.get("now", 0)),
    )


def _backlog(
    dataset: str, state: str, planned: int, done: int, leased: int, dead: int, *more: Any
) -> JobBacklog:
    waiting = max(0, planned - done - leased - dead)
    return JobBacklog(dataset, JobState(state), waiting, leased, done, dead, *more)


def _pace(stats: dict[str, float], now: float) -> float | None:
    if not stats.get("pace_ms") or now - stats.get("pace_at", 0) > PACE_SECONDS * 1000:
        return None
    return 1000 * stats["pace_images"] / stats["pace_ms"]
