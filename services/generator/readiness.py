"""What keeps a worker from being of use, and how long it rests after what went wrong."""

from collections.abc import Callable
from contextlib import suppress
from typing import Literal

LONGEST_PAUSE = 5.0
"""Seconds between two attempts to reach a queue or store that is away."""
Part = Literal["model", "queue", "store"]


def pause_after(failures: int) -> float:
    """Seconds to wait after this many failures in a row: 0, 0.2, 0.4, ... up to 5."""
    return min(LONGEST_PAUSE, 0.1 * 2 ** min(failures, 10)) if failures else 0.0


class Readiness:
    """Troubles by part, and failures in a row; any thread may report and read.

    A shard that fails by its own fault (a model that is not there, captions that are damaged) is no trouble
    of the worker's. A hub, queue or store that is away is, and so is a model that does not fit into memory.
    """

    def __init__(self) -> None:
        self._troubles: dict[Part, str] = {}
        self._failures = 0
        self.report_work: Callable[[], None] | None = None
        """Called once, after the first shard, or when none is queued: the process is worth restarting."""

    def set_problem(self, part: Part, text: object) -> None:
        """This part does not work, in a line."""
        self._troubles[part] = str(text).partition("\n")[0]

    def clear_problem(self, part: Part) -> None:
        """This part works."""
        self._troubles.pop(part, None)

    @property
    def problem(self) -> str:
        """Why the worker is not ready; empty when it is."""
        return next(iter(tuple(self._troubles.values())), "")

    def failed(self) -> None:
        """A shard could not be made."""
        self._failures += 1

    def worked(self) -> None:
        """A shard was made, or there is none to make."""
        self._failures = 0
        report, self.report_work = self.report_work, None
        if report is not None:
            with suppress(OSError):  # a full disk: after its next death it pauses longer
                report()

    @property
    def pause(self) -> float:
        """Seconds to rest before the next shard: a sick worker must not use up a job's attempts."""
        return pause_after(self._failures)
