"""What a job is: its states, what was asked for, and how far it has come."""

import re
from dataclasses import dataclass
from enum import StrEnum

from stablerep.errors import InvalidInput
from stablerep.jobs.recipe import Recipe, check_captions_per_shard

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
MAX_PRIORITY = 9


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
class CaptionSource:
    """Where a job's captions are: exactly one of an object in the store (`uri`) and a finished upload."""

    uri: str = ""
    upload_id: str = ""
    format: str = ""  # empty: told from the file name
    column: str = ""  # empty: found by the usual names
    limit: int = 0  # 0: all

    def __post_init__(self) -> None:
        if bool(self.uri) == bool(self.upload_id):
            raise InvalidInput("give either a uri or an upload_id", field="source")
        if self.limit < 0:
            raise InvalidInput(f"{self.limit} is negative; 0 means all captions", field="source.limit")


@dataclass(frozen=True)
class JobSpec:
    """What was asked for: captions x recipe -> dataset. Raises `InvalidInput` naming the wrong field."""

    dataset: str
    recipe: Recipe
    source: CaptionSource
    captions_per_shard: int
    seed: int = 0
    priority: int = 0
    request_id: str = ""

    def __post_init__(self) -> None:
        check_dataset_name(self.dataset)
        check_captions_per_shard(self.captions_per_shard)
        if not -(2**63) <= self.seed < 2**63:
            raise InvalidInput(f"{self.seed} does not fit 64 bits", field="seed")
        if not 0 <= self.priority <= MAX_PRIORITY:
            raise InvalidInput(f"{self.priority} is not in 0..{MAX_PRIORITY}", field="priority")


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


def check_dataset_name(name: str) -> str:
    """`name` if it may name a dataset (and so a folder of objects), else `InvalidInput`."""
    if not _NAME.fullmatch(name):
        raise InvalidInput(
            f"{name[:80]!r} is not 1-63 of a-z, 0-9, '-', '_', '.', starting with a letter or digit",
            field="dataset",
        )
    return name
