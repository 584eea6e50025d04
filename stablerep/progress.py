"""Progress of long steps: a bar with ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.progress import TimeRemainingColumn as EtaColumn

# Lines are never folded: tables and paths stay whole in logs and narrow terminals. No markup: captions and
# errors have brackets of their own.
console = Console(
    highlight=False, soft_wrap=True, markup=False, width=None if sys.stdout.isatty() else 100_000
)


class Bars:
    """Several progress bars shown together; use as a context manager."""

    def __init__(
        self, *, line_seconds: float = 15.0, whole: Callable[[float], tuple[float, float]] | None = None
    ) -> None:
        self._live = sys.stdout.isatty()
        self._progress = Progress(
            TextColumn("{task.description:<22}", markup=False),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("elapsed"),
            TimeElapsedColumn(),
            TextColumn("left"),
            EtaColumn(),
            TextColumn("{task.fields[note]}", markup=False),
            console=console,
            disable=not self._live,
        )
        self._whole = whole
        self._whole_task: TaskID | None = None
        self._line_seconds = line_seconds
        self._printed: dict[TaskID, float] = {}
        self._started: dict[TaskID, tuple[float, int]] = {}
        self._whole_printed = 0.0

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._progress.stop()

    def add(self, description: str, total: float, completed: int = 0) -> TaskID:
        """A new bar; `completed` is what an earlier run had done already and is not counted in the ETA."""
        task = self._progress.add_task(description, total=total, completed=completed, note="")
        self._started[task] = (time.monotonic(), completed)
        return task

    def update(self, task: TaskID, completed: float, note: str = "", *, total: float | None = None) -> None:
        """Moves a bar to `completed`; `note` is a short text such as the loss."""
        if total is not None:
            self._progress.update(task, total=total)
        self._progress.update(task, completed=completed, note=note)
        self._follow_whole()
        if not self._live:
            self._print_line(task)

    def remove(self, task: TaskID) -> None:
        """Takes away the bar of what is over, where there are many; its last line stays in a log."""
        self._progress.update(task, visible=False)

    def _follow_whole(self) -> None:
        """Moves the bar of all that these bars are a part of, in seconds; it is the last one."""
        if self._whole is None:
            return
        parts = [task for task in self._progress.tasks if task.id != self._whole_task]
        fraction = sum(min(1.0, part.completed / part.total) for part in parts if part.total) / len(parts)
        spent, total = self._whole(fraction)
        if self._whole_task is None:
            self._whole_task = self._progress.add_task("in all, seconds", total=total, note="")
            self._whole_printed = time.monotonic()
        note = f"{minutes(spent)} of about {minutes(total)}, {minutes(total - spent)} left"
        self._progress.update(self._whole_task, completed=round(spent), total=round(total), note=note)
        if not self._live and time.monotonic() - self._whole_printed > self._line_seconds:
            self._whole_printed = time.monotonic()
            console.print(f"  {note}")

    def _print_line(self, task: TaskID) -> None:
        bar = next(t for t in self._progress.tasks if t.id == task)
        now = time.monotonic()
        finished = bar.total is not None and bar.completed >= bar.total
        if self._printed.get(task, 0.0) == float("inf"):
            return
        if not finished and now - self._printed.get(task, self._started[task][0]) < self._line_seconds:
            return
        self._printed[task] = float("inf") if finished else now
        began, before = self._started[task]
        elapsed = now - began
        done = bar.completed - before
        left = (
            f", {elapsed / done * ((bar.total or 0) - bar.completed):.0f} s left"
            if done and not finished
            else ""
        )
        note = f"  {bar.fields['note']}" if bar.fields["note"] else ""
        console.print(f"  {bar.description}: {bar.completed:g}/{bar.total:g} in {elapsed:.0f} s{left}{note}")


def minutes(seconds: float) -> str:
    """Seconds as a person reads them."""
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.1f} min"


@contextmanager
def step(description: str) -> Iterator[None]:
    """Prints a line when a step without countable parts is over, with its seconds."""
    began = time.monotonic()
    with console.status(f"{description} ..."):
        yield
    console.print(f"  {description}: {time.monotonic() - began:.1f} s")
