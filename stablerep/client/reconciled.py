"""What reconciliation found of a job, as clients see it."""

from dataclasses import dataclass

from stablerep.queue.states import JobState
from stablerep.v1 import generation_pb2 as pb


@dataclass(frozen=True)
class ReconcileResult:
    """Shards of a job as they are now, and what was found; `missing` and `torn` ones are made again."""

    name: str
    state: JobState
    shards: int
    done: int
    dead: int
    missing: int
    torn: int
    indexed: int
    """Whole tars that had no index, or one that could not be read."""
    problems: tuple[str, ...]
    """What could not be repaired."""

    @property
    def sound(self) -> bool:
        """Nothing was missing, torn or beyond repair."""
        return not (self.missing or self.torn or self.problems)


def read_reconciled(message: pb.ReconcileJobsResponse) -> ReconcileResult:
    """The message of the gateway as plain data."""
    return ReconcileResult(
        name=message.name,
        state=JobState(pb.Job.State.Name(message.state)),
        shards=message.shards,
        done=message.shards_done,
        dead=message.shards_dead,
        missing=message.shards_missing,
        torn=message.shards_torn,
        indexed=message.shards_indexed,
        problems=tuple(message.problems),
    )
