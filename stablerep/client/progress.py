"""How far a job is, as a progress bar."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.progress import TaskID

from stablerep.progress import Bars

if TYPE_CHECKING:
    from stablerep.client.job import Job


def show_job(bars: Bars, task: TaskID, job: Job) -> None:
    """Moves a bar to where the job is."""
    counts = job.counts
    note = f"{counts.images:,} images" + (f", {counts.dead} dead shards" if counts.dead else "")
    bars.update(task, counts.done, note, total=max(1, counts.shards))
