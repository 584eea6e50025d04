"""Service processes of one machine: started, restarted when they die, stopped together.

Used by `stablerep demo` and `stablerep up`. Every child runs in a session of its own, so that Ctrl-C reaches
only the parent, which then stops the children in order: workers first (they release their shards).
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Container, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stablerep.errors import StableRepError
from stablerep.local.children import WRONG_SETTINGS, Child, how_it_ended, wait_or_kill
from stablerep.progress import console


class ChildDied(StableRepError):
    """A child process ended and cannot be restarted; the text carries the end of its log."""


@dataclass
class Processes:
    """The children of one parent, as a context manager; leaving it stops them all, workers first."""

    folder: Path
    children: list[Child] = field(default_factory=list)

    def __enter__(self) -> Processes:
        self.folder.mkdir(parents=True, exist_ok=True)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(
        self,
        name: str,
        arguments: list[str],
        environment: Mapping[str, str],
        *,
        announces: str | None = None,
        threads: int = 1,
        final: Container[int] = (WRONG_SETTINGS,),
        progress: Callable[[], object] | None = None,
        stop_seconds: float = 30.0,
    ) -> Child:
        """Starts `python ARGUMENTS`.

        Args:
            announces: environment variable that names the file for the child's address.
            threads: compute threads the child may use.
            final: exit statuses after which it is not restarted.
            progress: what grows as it works, for a child that announces nothing.
            stop_seconds: how long it may take to end after SIGTERM.
        """
        child_environment = {**_thread_limits(threads), **environment}
        address_file = self.folder / f"{name}.address.json" if announces else None
        if announces:
            child_environment[announces] = str(address_file)
        child = Child(
            name,
            [sys.executable, *arguments],
            child_environment,
            log=self.folder / f"{name}.log",
            address_file=address_file,
            final=final,
            progress=progress,
            stop_seconds=stop_seconds,
        )
        child.start()
        self.children.append(child)
        return child

    def wait_announced(self, child: Child, seconds: float = 120.0) -> str:
        """The address a child serves on. Raises ChildDied when it ends, or does not serve in `seconds`."""
        deadline = time.monotonic() + seconds
        while "address" not in child.announced():
            if child.process.poll() is not None:
                raise died(child)
            if time.monotonic() > deadline:
                raise ChildDied(f"{child.name} did not serve within {seconds:.0f} s:\n{child.log_tail()}")
            time.sleep(0.05)
        return str(child.announced()["address"])

    def revive(self) -> None:
        """Restarts the children that have died, each after its pause.

        Raises ChildDied for one whose settings are wrong, or that keeps dying without having worked.
        """
        for child in self.children:
            child.keep_running(console.print)
            if child.status:
                raise died(child)

    def stop(self, *names: str) -> None:
        """Stops the named children (all without names): SIGTERM, then SIGKILL for one that takes too long."""
        chosen = [child for child in self.children if not names or child.name in names]
        for child in chosen:
            child.process.terminate()
        began = time.monotonic()
        for child in reversed(chosen):
            wait_or_kill(child.process, max(0.1, began + child.stop_seconds - time.monotonic()))
            (self.folder / f"{child.name}.pid").unlink(missing_ok=True)
        self.children = [child for child in self.children if child not in chosen]


def died(child: Child) -> ChildDied:
    """The error that a child's end is."""
    return ChildDied(f"{child.name} {how_it_ended(child.process.returncode)}:\n{child.log_tail()}")


def _thread_limits(threads: int) -> dict[str, str]:
    return {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}
