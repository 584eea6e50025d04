"""The states of a job, and how many of its shards are where."""

from dataclasses import dataclass
from enum import StrEnum


class JobState(StrEnum):
    """States of a job; the names are those of `Job.State` in generation.proto."""

    PLANNING = "PLANNING"
    RUNNING = "RUNNING"
    PAUSED = "PAUSED"
    SUCCEEDED = "SUCCEEDED"
    FAILED = "FAILED"
    CANCELLED = "CANCELLED"

    @property
    def final(self) -> bool:
        """Whether a job in this state is over."""
        return self in (JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED)


@dataclass(frozen=True)
class Counts:
    """Shards of a job by where they are, and what the done ones hold."""

    planned: int = 0
    pending: int = 0
    leased: int = 0
    done: int = 0
    dead: int = 0
    groups: int = 0
    images: int = 0
    skipped: int = 0
