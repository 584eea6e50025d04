"""A generator worker as it last reported to its gateway; what is understood of captions before a job."""

from dataclasses import dataclass
from datetime import UTC, datetime

from stablerep.captions import CaptionReport, Description
from stablerep.v1 import generation_pb2 as pb


@dataclass(frozen=True)
class WorkerInfo:
    """Who it is, where it serves, and what it does; `state` as in `WorkerStatus`."""

    name: str
    state: str
    shard: str
    shards_done: int
    images_done: int
    images_per_second: float
    """Over the last minute."""
    card: str
    model: str
    address: str
    version: str
    report_time: datetime


def read_worker(message: pb.Worker) -> WorkerInfo:
    """The message of the gateway as plain data."""
    facts = {field.name: getattr(message, field.name) for field in message.DESCRIPTOR.fields}
    return WorkerInfo(**{**facts, "report_time": message.report_time.ToDatetime(tzinfo=UTC)})


def read_description(message: pb.DescribeCaptionsResponse) -> Description:
    """The message of the gateway as plain data."""
    report = {field.name: getattr(message.report, field.name) for field in message.report.DESCRIPTOR.fields}
    return Description(
        format=message.format,
        encoding=message.encoding,
        separator=message.separator,
        column=message.column,
        header=message.header if message.HasField("header") else None,
        first=tuple(message.first),
        report=CaptionReport(**report),
        whole=message.whole,
    )
