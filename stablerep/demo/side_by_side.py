"""Runs a demo's processes to their end, two at a time with a bar each; used for training and probing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import TaskID

from stablerep.local.children import Child
from stablerep.local.processes import Processes
from stablerep.progress import Bars

Whole = Callable[[float], tuple[float, float]] | None
"""From the part of a stage that is done to the seconds spent on the whole demo and those in all."""
_AT_ONCE = 2
_POLL_SECONDS = 0.5
_STOPPED = 75
_FINAL = frozenset(range(256)) - {_STOPPED}
"""A task ends by its own decision, but for the status of one that was stopped and can resume."""


@dataclass(frozen=True)
class Task:
    """A process that runs to its end.

    Attributes:
        arguments: what follows `python`.
        total: steps in all, `progress` gives those done and a note for the bar.
    """

    name: str
    title: str
    arguments: Sequence[str]
    total: int
    progress: Callable[[], tuple[int, str]]


def run_side_by_side(tasks: Sequence[Task], logs: Path, whole: Whole = None) -> None:
    """Runs the tasks, one compute thread each; one that is killed is restarted and resumes.

    Raises ChildDied with the end of its log when a task fails, or is killed repeatedly without progress.
    """
    waiting = list(tasks)
    running: list[tuple[Task, Child, TaskID]] = []
    with Bars(whole=whole) as bars, Processes(logs) as processes:
        while waiting or running:
            while waiting and len(running) < _AT_ONCE:
                task = waiting.pop(0)
                child = processes.start(
                    task.name, list(task.arguments), {}, final=_FINAL, progress=task.progress
                )
                running.append((task, child, bars.add(task.title, task.total, task.progress()[0])))
            time.sleep(_POLL_SECONDS)
            for task, _, bar in running:
                bars.update(bar, *task.progress())
            processes.revive()
            for _, child, _ in running:
                if child.status == 0:
                    processes.stop(child.name)
            running = [entry for entry in running if entry[1].status is None]
