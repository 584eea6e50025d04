"""A job, or a worker, of the library as the message that clients get."""

from dataclasses import asdict

from stablerep.jobs.view import JobView
from stablerep.queue.workers import WorkerReport
from stablerep.shards.layout import dataset_prefix
from stablerep.v1 import generation_pb2 as pb


def job_message(store_url: str, view: JobView) -> pb.Job:
    """All fields of `Job`; `dataset_url` is where readers of the dataset look."""
    counts = view.counts
    message = pb.Job(
        name=f"jobs/{view.dataset}",
        state=view.state.value,
        recipe=pb.Recipe(**view.recipe.model_dump(), digest=view.recipe.digest),
        source=pb.CaptionSource(
            format=view.source.format,
            column=view.source.column,
            limit=view.source.limit,
            header=view.source.header,
        ),
        seed=view.seed,
        captions_per_shard=view.captions_per_shard,
        priority=view.priority,
        dataset_url=f"{store_url.rstrip('/')}/{dataset_prefix(view.dataset).rstrip('/')}",
        shards=counts.planned,
        shards_pending=counts.pending,
        shards_leased=counts.leased,
        shards_done=counts.done,
        shards_dead=counts.dead,
        captions=view.captions,
        groups_done=counts.groups,
        images_done=counts.images,
        captions_skipped=counts.skipped,
        error=view.error,
        worker_seconds=view.worker_seconds,
    )
    if view.source.upload_id:
        message.source.upload_id = view.source.upload_id
    else:
        message.source.uri = view.source.uri
    if view.report is not None:
        message.caption_report.CopyFrom(pb.CaptionReport(**asdict(view.report)))
    message.create_time.FromDatetime(view.create_time)
    if view.end_time is not None:
        message.end_time.FromDatetime(view.end_time)
    if view.outlook is not None:
        message.jobs_ahead, message.shards_ahead = view.outlook.jobs_ahead, view.outlook.shards_ahead
        if view.outlook.start is not None:
            message.expected_start_time.FromDatetime(view.outlook.start)
        if view.outlook.end is not None:
            message.expected_end_time.FromDatetime(view.outlook.end)
    return message


def worker_message(report: WorkerReport) -> pb.Worker:
    """All fields of `Worker`."""
    facts = asdict(report)
    message = pb.Worker(**{name: value for name, value in facts.items() if name != "time"})
    message.report_time.FromDatetime(report.time)
    return message
