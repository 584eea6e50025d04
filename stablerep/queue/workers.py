"""What workers last said of themselves: kept in the queue server for two minutes, and never relied on."""

import json
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import Any

from stablerep.queue.stats import SEEN_SECONDS

KEY = "sr:workers"
"""A hash from a worker's name to its report, as JSON."""


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


def pack_report(report: WorkerReport) -> str:
    """The report as it is kept."""
    return json.dumps({**asdict(report), "time": report.time.timestamp()})


def read_reports(found: dict[str, str], now: datetime) -> tuple[list[WorkerReport], list[str]]:
    """The reports that are recent, by name, and the names of the others, which are to be removed."""
    recent: list[WorkerReport] = []
    for text in found.values():
        report = _read(text)
        if report is not None and abs((now - report.time).total_seconds()) <= SEEN_SECONDS:
            recent.append(report)
    names = {report.name for report in recent}
    return sorted(recent, key=lambda report: report.name), [name for name in found if name not in names]


def _read(text: str) -> WorkerReport | None:
    """None for what another version wrote."""
    try:
        content: dict[str, Any] = json.loads(text)
        return WorkerReport(**{**content, "time": datetime.fromtimestamp(content["time"], UTC)})
    except (ValueError, TypeError, KeyError):
        return None
