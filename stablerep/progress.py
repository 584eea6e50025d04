"""Progress of long steps: a bar with ETA on a terminal, a plain line now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
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

    def __init__(self, *, line_seconds: float = 15.0) -> None:
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
        self._line_seconds = line_seconds
        self._printed: dict[TaskID, float] = {}
        self._started: dict[TaskID, tuple[float, int]] = {}

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
        if not self._live:
            self._print_line(task)

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


@contextmanager
def step(description: str) -> Iterator[None]:
    """Prints a line when a step without countable parts is over, with its seconds."""
    began = time.monotonic()
    with console.status(f"{description} ..."):
        yield
    console.print(f"  {description}: {time.monotonic() - began:.1f} s")
