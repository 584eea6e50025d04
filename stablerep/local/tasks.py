"""Runs processes to their end, some at a time with a bar each: trainings and probes of demo and sweeps."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from rich.progress import TaskID

from stablerep.local.children import Child
from stablerep.local.processes import Processes, died
from stablerep.progress import Bars, console

Whole = Callable[[float], tuple[float, float]] | None
"""From the part of all tasks that is done to the seconds spent and those in all."""
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
        about: what the task is for, to who is told of its failure.
        then: the tasks that its success makes possible.
    """

    name: str
    title: str
    arguments: Sequence[str]
    total: int
    progress: Callable[[], tuple[int, str]]
    threads: int = 1
    about: Sequence[str] = ()
    then: Callable[[], Iterable[Task]] = field(default=lambda: ())


def run_tasks(
    tasks: Iterable[Task],
    logs: Path,
    *,
    at_once: int = 2,
    whole: Whole = None,
    overall: Callable[[], tuple[int, int, str]] | None = None,
    failed: Callable[[Task, str], Iterable[Task]] | None = None,
) -> None:
    """Runs the tasks in their order; one that is killed is restarted and resumes.

    `failed` is told of a task that fails, or is killed repeatedly without progress, with the end of its log;
    what it returns is done next, and the others go on. Without it ChildDied is raised. `overall` gives what
    is done of how much, for a bar above those of the tasks, which then go when their tasks end.
    """
    waiting = list(tasks)
    running: list[tuple[Task, Child, TaskID]] = []
    with Bars(whole=whole) as bars, Processes(logs) as processes:
        done, total, _ = overall() if overall else (0, 0, "")
        all_of_it = bars.add("in all", total, done) if overall else None
        while waiting or running:
            while waiting and len(running) < at_once:
                task = waiting.pop(0)
                child = processes.start(
                    task.name,
                    list(task.arguments),
                    {},
                    threads=task.threads,
                    final=_FINAL,
                    progress=task.progress,
                )
                running.append((task, child, bars.add(task.title, task.total, task.progress()[0])))
            time.sleep(_POLL_SECONDS)
            for task, child, bar in running:
                bars.update(bar, *task.progress())
                child.keep_running(console.print)
            for task, child, bar in running:
                if child.status is None:
                    continue
                processes.stop(child.name)
                if overall:
                    bars.remove(bar)
                if child.status == 0:
                    waiting[:0] = task.then()
                elif failed is None:
                    raise died(child)
                else:
                    waiting[:0] = failed(task, child.log_tail(1))
            if all_of_it is not None and overall is not None:
                done, total, note = overall()
                bars.update(all_of_it, done, note, total=total)
            running = [entry for entry in running if entry[1].status is None]
