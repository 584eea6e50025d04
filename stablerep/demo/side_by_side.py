"""Runs a demo's processes two at a time to their end, with a bar each; used for training and probing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rich.progress import TaskID

from stablerep.local.processes import Child, ChildDied, Processes
from stablerep.progress import Bars

_AT_ONCE = 2
_POLL_SECONDS = 0.5


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


def run_side_by_side(tasks: Sequence[Task], logs: Path) -> None:
    """Runs the tasks, one compute thread each; one that is killed is started again and goes on.

    Raises ChildDied with the end of its log when a task fails by itself or keeps being killed.
    """
    waiting = list(tasks)
    going: list[tuple[Task, Child, TaskID]] = []
    with Bars() as bars, Processes(logs) as processes:
        while waiting or going:
            while waiting and len(going) < _AT_ONCE:
                task = waiting.pop(0)
                child = processes.start(task.name, list(task.arguments), {})
                going.append((task, child, bars.add(task.title, task.total, task.progress()[0])))
            time.sleep(_POLL_SECONDS)
            for entry in list(going):
                task, child, bar = entry
                done, note = task.progress()
                bars.update(bar, done, note)
                code = child.process.poll()
                if code == 0:
                    processes.stop(child.name)
                    going.remove(entry)
                elif code is not None and code > 0:
                    # It ended by its own decision; only what was killed from outside is worth another try.
                    raise ChildDied(f"{child.name} failed:\n{child.log_tail()}")
                elif code is not None:
                    processes.revive(child)
