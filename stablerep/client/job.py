"""A job as clients see it: plain frozen data read from the gateway's message."""

import re
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from google.protobuf.message import Message

from stablerep.errors import InvalidInput
from stablerep.queue.leases import ShardState
from stablerep.queue.states import JobState
from stablerep.v1 import generation_pb2 as pb

_NAME = re.compile(r"(?:jobs/)?([a-z0-9][a-z0-9._-]{0,62})")


@dataclass(frozen=True)
class Counts:
    """Shards by state, and what the finished ones hold."""

    shards: int
    pending: int
    leased: int
    done: int
    dead: int
    captions: int
    groups: int
    images: int
    skipped: int


@dataclass(frozen=True)
class Job:
    """Captions x recipe -> dataset."""

    name: str
    dataset: str
    state: JobState
    recipe: dict[str, Any]
    """Every field of the recipe and its `digest`."""
    source: dict[str, Any]
    """`uri` or `upload_id`, and `format`, `column`, `limit`, `header` where they were given."""
    seed: int
    captions_per_shard: int
    priority: int
    dataset_url: str
    counts: Counts
    caption_report: dict[str, int]
    """Lines read, captions taken, and the lines left out by reason."""
    create_time: datetime | None
    end_time: datetime | None
    error: str
    """Why a job failed; empty otherwise."""
    jobs_ahead: int = 0
    """Jobs that are given a shard before it."""
    shards_ahead: int = 0
    """Shards that are leased before its next one."""
    expected_start_time: datetime | None = None
    """When its first shard is leased, at the pace of late; None: it has started, or nobody knows."""
    expected_end_time: datetime | None = None
    worker_seconds: float = 0.0
    """That workers took to generate its finished shards; of those since the queue was last restored."""

    @property
    def done(self) -> bool:
        """True in a final state: nothing will change any more."""
        return self.state.final

    @property
    def progress(self) -> float:
        """Part of the planned shards that is settled, 0..1; 0 until planning has counted them."""
        if self.state is JobState.SUCCEEDED:
            return 1.0
        if self.state is JobState.PLANNING or not self.counts.shards:
            return 0.0
        return (self.counts.done + self.counts.dead) / self.counts.shards


@dataclass(frozen=True)
class Shard:
    """One task of a job and one object of its dataset."""

    name: str
    number: int
    state: ShardState
    worker: str
    """Who has it, while it is LEASED."""
    errors: int
    """Reported errors since it was last done or retried; `lost_leases`: workers that vanished with it."""
    lost_leases: int
    error: str
    """The last error that was reported, or why it is dead."""


def read_shard(message: pb.Shard) -> Shard:
    """The message of the gateway as plain data."""
    return Shard(
        name=message.name,
        number=message.number,
        state=ShardState(pb.Shard.State.Name(message.state)),
        worker=message.worker,
        errors=message.errors,
        lost_leases=message.lost_leases,
        error=message.error,
    )


def read_job(message: pb.Job) -> Job:
    """The message of the gateway as plain data."""
    return Job(
        name=message.name,
        dataset=message.name.removeprefix("jobs/"),
        state=JobState(pb.Job.State.Name(message.state)),
        recipe=_fields(message.recipe),
        source={field.name: value for field, value in message.source.ListFields()},
        seed=message.seed,
        captions_per_shard=message.captions_per_shard,
        priority=message.priority,
        dataset_url=message.dataset_url,
        counts=Counts(
            shards=message.shards,
            pending=message.shards_pending,
            leased=message.shards_leased,
            done=message.shards_done,
            dead=message.shards_dead,
            captions=message.captions,
            groups=message.groups_done,
            images=message.images_done,
            skipped=message.captions_skipped,
        ),
        caption_report=_fields(message.caption_report),
        create_time=_time(message, "create_time"),
        end_time=_time(message, "end_time"),
        error=message.error,
        jobs_ahead=message.jobs_ahead,
        shards_ahead=message.shards_ahead,
        expected_start_time=_time(message, "expected_start_time"),
        expected_end_time=_time(message, "expected_end_time"),
        worker_seconds=message.worker_seconds,
    )


def job_name(name: str) -> str:
    """`jobs/NAME` from that or from the bare name of the dataset.

    Raises:
        InvalidInput: it is neither.
    """
    matched = _NAME.fullmatch(name)
    if matched is None:
        raise InvalidInput(f"{name!r} is no job name; it looks like jobs/my-dataset", field="name")
    return f"jobs/{matched[1]}"


def _fields(message: Message) -> dict[str, Any]:
    return {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}


def _time(message: pb.Job, field: str) -> datetime | None:
    return getattr(message, field).ToDatetime(tzinfo=UTC) if message.HasField(field) else None
