"""How far jobs were at each moment that a page looked: their pace, and their progress as a curve."""

import time
from collections import OrderedDict, deque
from dataclasses import dataclass

from stablerep.client import Job

MAX_JOBS = 2000
MAX_POINTS = 1000
_PACE_SECONDS = 60.0


@dataclass(frozen=True)
class Point:
    """`time` in seconds since 1970; images done by then."""

    time: float
    images: int


class History:
    """Of this process: what was before its first look at a job is one straight line of the curve."""

    def __init__(self) -> None:
        self._points: OrderedDict[str, deque[Point]] = OrderedDict()

    def note(self, job: Job) -> None:
        """Keeps how far a job is, where that has changed."""
        points = self._points.setdefault(job.name, deque())
        self._points.move_to_end(job.name)
        if points and job.counts.images < points[-1].images:
            points.clear()  # another job of that name, or shards that were taken back
        if not points or job.counts.images != points[-1].images:
            points.append(Point(time.time(), job.counts.images))
        if len(points) > MAX_POINTS:  # every other one of the older half goes
            kept = list(points)
            half = len(kept) // 2
            self._points[job.name] = deque([*kept[:half:2], *kept[half:]])
        while len(self._points) > MAX_JOBS:
            self._points.popitem(last=False)

    def points(self, job: Job) -> list[Point]:
        """From the job's creation to its end, or to the last look."""
        points = list(self._points.get(job.name, ()))
        if points and job.end_time is not None:  # when a page looked may be long after
            last = job.end_time.timestamp()
            points = [Point(min(point.time, last), point.images) for point in points]
        created = job.create_time.timestamp() if job.create_time else None
        if points and created is not None and created < points[0].time:
            points.insert(0, Point(created, 0))
        return points

    def images_per_second(self, job: Job) -> float | None:
        """Over the last minute in which something was done; None: not known yet."""
        points = self._points.get(job.name)
        if not points or len(points) < 2 or job.done:
            return None
        last = points[-1]
        first = next((p for p in reversed(points) if last.time - p.time >= _PACE_SECONDS), points[0])
        since = max(last.time, time.time() - _PACE_SECONDS) - first.time
        return (last.images - first.images) / since if since > 0 else None
