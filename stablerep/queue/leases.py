"""What the queue answers: leases and what became of them, shards and jobs as Redis knows them."""

from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum

from stablerep.queue.states import Counts, JobState


@dataclass(frozen=True)
class Lease:
    """A worker's claim on a shard; after `deadline`, in this process's `time.monotonic()`, it may be lost."""

    dataset: str
    shard: int
    entry_id: str
    worker: str
    deadline: float
    job_uid: str = ""
    """Distinguishes the job from one of the same name that was deleted meanwhile."""


class RenewOutcome(StrEnum):
    """What became of a lease: still the worker's, another's (or done), or of a job that is over."""

    HELD = "HELD"
    LOST = "LOST"
    CANCELLED = "CANCELLED"


class FailOutcome(StrEnum):
    """What became of a shard that failed: tried again, dead, or neither, as it was not the worker's."""

    RETRY = "RETRY"
    DEAD = "DEAD"
    IGNORED = "IGNORED"


@dataclass(frozen=True)
class ShardFailures:
    """How often a shard not yet done has failed: with an error (the last one), and by a lost lease."""

    errors: int = 0
    lost: int = 0
    error: str = ""


class ShardState(StrEnum):
    """Where a shard is; the names are those of `Shard.State` in generation.proto."""

    PENDING = "PENDING"
    LEASED = "LEASED"
    DONE = "DONE"
    DEAD = "DEAD"


@dataclass(frozen=True)
class ShardStatus:
    """One shard of a job: `worker` while it is leased; what went wrong since it was last done or retried."""

    number: int
    state: ShardState
    worker: str = ""
    errors: int = 0
    lost_leases: int = 0
    error: str = ""


@dataclass(frozen=True)
class JobStatus:
    """What Redis knows of a job, all read in one moment."""

    state: JobState
    priority: int
    planned_all: bool
    counts: Counts
    create_time: datetime
    end_time: datetime | None
    error: str
    worker_seconds: float = 0.0
    """That workers took to generate the done shards, since the job was last put into the queue."""


def read_status(job: dict[str, str], done: int, leased: int, dead: int) -> JobStatus:
    """What the hash of a job says, with the numbers of its shards that are done, leased and dead."""
    planned = int(job["planned"])
    return JobStatus(
        state=JobState(job["state"]),
        priority=int(job["priority"]),
        planned_all=job["complete"] == "1",
        counts=Counts(
            planned=planned,
            pending=planned - done - leased - dead,
            leased=leased,
            done=done,
            dead=dead,
            groups=int(job["groups"]),
            images=int(job["images"]),
            skipped=int(job["skipped"]),
        ),
        create_time=datetime.fromtimestamp(float(job["create_time"]), UTC),
        end_time=datetime.fromtimestamp(float(job["end_time"]), UTC) if job["end_time"] else None,
        error=job["error"],
        worker_seconds=int(job.get("worker_ms", 0)) / 1000,
    )
