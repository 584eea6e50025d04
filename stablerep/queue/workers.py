"""What workers last said of themselves: kept in the queue server for two minutes, and never relied on."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from stablerep.queue.client import Queue
from stablerep.queue.stats import SEEN_SECONDS


@dataclass(frozen=True)
class WorkerReport:
    """The fields of `Worker` in generation.proto."""

    name: str
    state: str
    shard: str
    shards_done: int
    images_done: int
    images_per_second: float
    card: str
    model: str
    address: str
    version: str
    time: datetime


def report_worker(queue: Queue, report: WorkerReport) -> None:
    """Keeps what a worker says of itself. Raises Unavailable."""
    content = {**asdict(report), "time": report.time.timestamp()}
    queue.run_script("workers", report.name, json.dumps(content))


def list_workers(queue: Queue) -> list[WorkerReport]:
    """Workers that reported within `SEEN_SECONDS`, by name; the others are forgotten. Raises Unavailable."""
    flat = queue.run_script("workers")
    found = dict(zip(flat[::2], map(_read, flat[1::2]), strict=True))
    now = datetime.now(UTC)
    stale = [name for name, report in found.items() if report is None or _age(report, now) > SEEN_SECONDS]
    if stale:
        queue.run_script("workers", "", *stale)
    kept = (report for name, report in found.items() if report is not None and name not in stale)
    return sorted(kept, key=lambda report: report.name)


def _age(report: WorkerReport, now: datetime) -> float:
    return abs((now - report.time).total_seconds())


def _read(text: str) -> WorkerReport | None:
    """None for what another version wrote."""
    try:
        content: dict[str, Any] = json.loads(text)
        return WorkerReport(**{**content, "time": datetime.fromtimestamp(content["time"], UTC)})
    except (ValueError, TypeError, KeyError):
        return None
