"""Where a job stands among the others, and when it is expected to start and to end at the pace of late."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from stablerep.queue.states import JobState
from stablerep.queue.stats import LEASABLE, JobBacklog, QueueStats


@dataclass(frozen=True)
class Outlook:
    """Of a job with shards that wait.

    Attributes:
        jobs_ahead: jobs that are given a shard before it.
        shards_ahead: shards that are leased before its next one: all of higher priority that wait, and
            one of each equal whose turn comes first.
        start: when its first shard is expected to be leased; None once one was.
        end: when its last shard is expected to be done; None while it is being planned.
    Both times are None without a pace: no shard was completed in the last quarter of an hour.
    """

    jobs_ahead: int
    shards_ahead: int
    start: datetime | None = None
    end: datetime | None = None


def outlook(stats: QueueStats, dataset: str, now: datetime) -> Outlook | None:
    """None for a job without an end in sight: over, paused, or with no shard that waits or is leased.

    The pace counts images of all jobs alike, whatever the recipe; equals take turns, a shard each.
    """
    jobs = [job for job in stats.jobs if job.state in LEASABLE]
    job = next((job for job in jobs if job.dataset == dataset), None)
    if job is None or not job.waiting + job.leased:
        return None
    higher = [other for other in jobs if other.priority > job.priority and other.waiting]
    equal = [
        other
        for other in jobs
        if other.priority == job.priority and other.waiting and other.dataset != dataset
    ]
    before = [other for other in equal if other.turn < job.turn] if job.waiting else []
    ahead = Outlook(
        jobs_ahead=len(higher) + len(before) if job.waiting else 0,
        shards_ahead=sum(other.waiting for other in higher) + len(before) if job.waiting else 0,
    )
    if not stats.images_per_second:
        return ahead

    def after(images: float) -> datetime:
        return now + timedelta(seconds=images / (stats.images_per_second or 1))

    first = sum(_images(higher)) + sum(other.shard_images for other in before)
    in_work = sum(other.leased * other.shard_images for other in jobs if other.dataset != dataset)
    shared = sum(min(other.waiting, job.waiting) * other.shard_images for other in equal)
    own = (job.waiting + job.leased) * job.shard_images
    untouched = not job.leased and not job.done and not job.dead
    return Outlook(
        ahead.jobs_ahead,
        ahead.shards_ahead,
        start=after(first) if untouched else None,
        end=after(sum(_images(higher)) + in_work + shared + own)
        if job.state is JobState.RUNNING and job.planned_all
        else None,
    )


def _images(jobs: Sequence[JobBacklog]) -> list[int]:
    return [job.waiting * job.shard_images for job in jobs]
