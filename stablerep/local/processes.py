"""Service processes of one machine: started, announced, restarted when they die, stopped together.

Used by `stablerep demo` and `stablerep up`. Every child runs in a session of its own, so that Ctrl-C reaches
only the parent, which then stops the children in order: workers first (they hand their shards back).
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from stablerep.errors import StableRepError
from stablerep.progress import console

_STOP_SECONDS = 30.0
_RESTARTS = 5
_HEALTHY_SECONDS = 120.0
_PR_SET_PDEATHSIG = 1


class ChildDied(StableRepError):
    """A child process ended when it should have gone on; the text carries the end of its log."""


@dataclass
class Child:
    """One service process. `address` is known once it has announced itself."""

    name: str
    arguments: list[str]
    environment: dict[str, str]
    log: Path
    announce: Path | None
    process: subprocess.Popen[bytes]
    address: str = ""
    restarts: int = 0
    started: float = field(default_factory=time.monotonic)

    def log_tail(self, lines: int = 15) -> str:
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])


@dataclass
class Processes:
    """The children of one parent, as a context manager; leaving it stops them all, last started first."""

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
    ) -> Child:
        """Starts `python ARGUMENTS`.

        Args:
            announces: name of the environment variable that tells the child where to write its address.
            threads: compute threads the child may use.
        """
        announce = self.folder / f"{name}.address.json" if announces else None
        child_environment = {**os.environ, **_thread_limits(threads), **environment}
        if announces and announce:
            announce.unlink(missing_ok=True)
            child_environment[announces] = str(announce)
        log = self.folder / f"{name}.log"
        command = [sys.executable, *arguments]
        child = Child(
            name, command, child_environment, log, announce, _spawn(command, child_environment, log)
        )
        self.children.append(child)
        self._note_pid(child)
        return child

    def _note_pid(self, child: Child) -> None:
        (self.folder / f"{child.name}.pid").write_text(f"{child.process.pid}\n")

    def wait_announced(self, child: Child, seconds: float = 120.0) -> str:
        """The address a child serves on. Raises ChildDied when it ends, or is not there in `seconds`."""
        assert child.announce is not None
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if child.announce.exists():
                child.address = json.loads(child.announce.read_text())["address"]
                return child.address
            if child.process.poll() is not None:
                raise ChildDied(f"{child.name} ended with {child.process.returncode}:\n{child.log_tail()}")
            time.sleep(0.05)
        raise ChildDied(f"{child.name} did not serve within {seconds:.0f} s:\n{child.log_tail()}")

    def revive(self, *children: Child) -> None:
        """Starts those of the children (all without arguments) that have ended again.

        Raises ChildDied for one that keeps ending soon after its start.
        """
        for child in children or self.children:
            code = child.process.poll()
            if code is None:
                continue
            if time.monotonic() - child.started > _HEALTHY_SECONDS:
                child.restarts = 0
            if child.restarts >= _RESTARTS:
                raise ChildDied(f"{child.name} died {child.restarts + 1} times:\n{child.log_tail()}")
            child.restarts += 1
            console.print(f"{child.name} ended with {code}; starting it again (log: {child.log})")
            child.process = _spawn(child.arguments, child.environment, child.log)
            child.started = time.monotonic()
            self._note_pid(child)

    def stop(self, *names: str) -> None:
        """Stops the named children (all without names): SIGTERM, then SIGKILL after 30 s."""
        chosen = [c for c in self.children if not names or c.name in names]
        for child in chosen:
            with contextlib.suppress(ProcessLookupError):
                child.process.send_signal(signal.SIGTERM)
        deadline = time.monotonic() + _STOP_SECONDS
        for child in reversed(chosen):
            try:
                child.process.wait(max(0.1, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            (self.folder / f"{child.name}.pid").unlink(missing_ok=True)
        self.children = [c for c in self.children if c not in chosen]


def _thread_limits(threads: int) -> dict[str, str]:
    return {name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")}


def _spawn(command: list[str], environment: dict[str, str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("ab") as out:
        return subprocess.Popen(
            command,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )


def die_with_parent() -> None:
    """Run in a child before its program (Linux only): it gets SIGTERM when the parent ends in any way.

    Without this a `kill -9` of the parent would leave servers behind that hold ports and folders.
    """
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
