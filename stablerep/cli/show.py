"""How verbs show what they found: a table, a page about a job, or JSON for a program."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from stablerep.captions.caption import CaptionReport
from stablerep.progress import console

if TYPE_CHECKING:
    from stablerep.client import Job


def _quiet(context: typer.Context, as_json: bool) -> bool:
    """With --json the command prints nothing else: no progress, no lines for a person."""
    console.quiet = as_json
    context.call_on_close(partial(setattr, console, "quiet", False))
    return as_json


Json = Annotated[
    bool,
    typer.Option(
        "--json", callback=_quiet, help="Print JSON, with the names of the API; a list one object a line."
    ),
]


def table(*columns: str) -> Table:
    """A table that never cuts a cell short: in a narrow terminal it folds."""
    made = Table(box=None, pad_edge=False)
    for column in columns:
        made.add_column(column, overflow="fold")
    return made


def print_json(found: object) -> None:
    """One object, or an iterable of them one a line."""
    if isinstance(found, Iterable) and not isinstance(found, dict):
        for each in found:
            typer.echo(json.dumps(_plain(each), ensure_ascii=False))
    else:
        typer.echo(json.dumps(_plain(found), ensure_ascii=False))


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: _plain(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(each) for each in value]
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value) if isinstance(value, Path) else value


def skipped_lines(job: Job) -> list[str]:
    """What became of the records that gave no caption, and of captions that could not be generated."""
    report = CaptionReport(**job.caption_report)
    lines = [f"  captions: {report}"] if report.lines > report.captions else []
    if job.counts.skipped:
        lines.append(f"  {job.counts.skipped:,} captions could not be generated; each shard's JSON says why")
    return lines


def job_page(job: Job) -> Iterator[str]:
    """A page about a job, in lines: state, progress, pace, captions, place, and what to do next."""
    counts, report = job.counts, CaptionReport(**job.caption_report)
    yield f"{job.name}: {job.state.value}" + (f" ({job.error})" if job.error else "")
    done = f"{counts.done:,} of {counts.shards:,} shards ({job.progress:.0%})"
    yield f"  progress  {done}, {counts.images:,} images"
    yield f"  shards    {counts.leased:,} leased, {counts.pending:,} waiting, {counts.dead:,} dead"
    if (waits := _waits(job)) is not None:
        yield f"  waits     {waits}"
    if expected := expected_times(job):
        yield f"  expected  {expected}, at the pace of all workers of late"
    if pace := _pace(job):
        yield f"  pace      {pace}"
    yield f"  captions  {report if report.lines else f'{counts.captions:,} so far'}"
    if counts.skipped:
        yield f"  skipped   {counts.skipped:,} captions could not be generated; each shard's JSON says why"
    yield f"  source    {', '.join(f'{key} {value}' for key, value in job.source.items())}"
    wanted = ("sampler", "steps", "guidance_scale", "images_per_caption", "image_size", "save_size")
    recipe = ", ".join(f"{name} {job.recipe[name]}" for name in wanted)
    yield f"  recipe    {job.recipe['model']}, {recipe}"
    yield f"  settings  seed {job.seed}, {job.captions_per_shard} captions a shard, priority {job.priority}"
    ended = f", ended {_time(job.end_time)}" if job.end_time else ""
    yield f"  times     created {_time(job.create_time)}{ended}"
    yield f"  dataset   {job.dataset_url}"
    yield f"  next      {_next(job)}"


def _waits(job: Job) -> str | None:
    """Why nothing is generated for a job that is not over, and what is ahead of it."""
    state, counts = job.state.value, job.counts
    if job.done or counts.leased or (state == "RUNNING" and not counts.pending):
        return None
    if state == "PAUSED":
        return "it is paused"
    if state == "PLANNING" and not counts.shards:
        return "its captions are being read"
    if job.jobs_ahead:
        return f"jobs ahead of it: {job.jobs_ahead:,}; shards before its next one: {job.shards_ahead:,}"
    return "no worker has taken a shard: none runs, all are busy, or shards that failed wait to be retried"


def expected_times(job: Job) -> str:
    """When the job is expected to start and to end, in this machine's time; empty if nobody knows."""
    words = []
    if job.expected_start_time:
        words.append(f"starts {near_time(job.expected_start_time)}")
    if job.expected_end_time:
        words.append(f"ends {near_time(job.expected_end_time)}")
    return ", ".join(words)


def near_time(time: datetime | None) -> str:
    """The time of a day, with the date if it is another day than today; empty for None."""
    if time is None:
        return ""
    local = time.astimezone()
    return local.strftime("%H:%M" if local.date() == datetime.now().astimezone().date() else "%Y-%m-%d %H:%M")


def _pace(job: Job) -> str:
    """Images a second on average since the job was created, and when it would be over at that pace."""
    if job.create_time is None or not job.counts.images:
        return ""
    seconds = ((job.end_time or datetime.now(UTC)) - job.create_time).total_seconds()
    pace = f"{job.counts.images / max(seconds, 1e-9):,.3g} images/s on average since it was created"
    left = job.counts.shards - job.counts.done - job.counts.dead
    if job.done or not job.counts.done or not left:
        return pace
    return f"{pace}, about {_duration(seconds * left / job.counts.done)} left"


def _duration(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def _time(time: datetime | None) -> str:
    return time.astimezone().strftime("%Y-%m-%d %H:%M:%S %z") if time else "unknown"


def _next(job: Job) -> str:
    verb = f"stablerep jobs {{}} {job.dataset}"
    if job.state.value == "SUCCEEDED":
        return (
            f"stablerep gallery {job.dataset_url}; stablerep train --dataset {job.dataset_url} --run RUN_URL"
        )
    if job.counts.dead:
        return f"{verb.format('shards')} --state dead; {verb.format('retry')}"
    if job.state.value in ("FAILED", "CANCELLED"):
        return f"submit it under another name; {verb.format('delete')}"
    return verb.format("resume" if job.state.value == "PAUSED" else "watch")
