"""One child process: how it is started, so that it ends with its parent, and when it is started again."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Container, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

WRONG_SETTINGS = 2
"""Exit status of a program whose settings cannot work: starting it again does not help."""
MAX_RESTARTS = 5
"""Restarts in a row of a child that has never worked."""
HEALTHY_SECONDS = 120.0
LONGEST_PAUSE = 60.0
_PR_SET_PDEATHSIG = 1

# Run by a Python that then becomes the program: asks Linux to end it when the thread that started it ends.
# Other systems have no such thing. A `preexec_fn` would do the same in the forked copy of a process with many
# threads, which may hang.
_BECOME = """
import os, signal, sys
if sys.platform == "linux":
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)
    if os.getppid() != int(sys.argv[1]):
        sys.exit("the parent process is gone")
os.execv(sys.argv[2], sys.argv[2:])
"""
# Linux sends the death signal when the *thread* that forked ends: this one lives as long as the process.
_starter = ThreadPoolExecutor(1, thread_name_prefix="child-starter")


def start_process(
    command: Sequence[str],
    environment: Mapping[str, str] | None = None,
    *,
    log: Path | None = None,
    stdin: int = subprocess.DEVNULL,
    own_session: bool = True,
) -> subprocess.Popen[bytes]:
    """Starts a program, by its path, that gets SIGTERM (Linux) when this process ends in any way.

    Args:
        environment: added to this process's own.
        log: file that its output is appended to; None: it writes where this process does.
        own_session: keeps the terminal's Ctrl-C from it.
    """

    def start(out: IO[bytes] | None) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *command],
            env={**os.environ, **(environment or {})},
            stdin=stdin,
            stdout=out,
            stderr=None if out is None else subprocess.STDOUT,
            start_new_session=own_session,
        )

    if log is None:
        return _starter.submit(start, None).result()
    with log.open("ab") as out:
        return _starter.submit(start, out).result()


def end_with_parent() -> None:
    """Asks Linux to send this process SIGTERM when the one that started it ends; nothing elsewhere."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)


@dataclass
class Restarts:
    """When a child that died is started again: after 1, 2, 4, ... seconds, at most a minute.

    A child is healthy once it has done work or lived for two minutes: its next pause is the first one again.
    One that was healthy before is never given up, any other is after five restarts in a row.
    """

    first_pause: float = 1.0
    healthy_before: bool = False
    due: float | None = None
    """When it is to be started; None while it runs."""
    _in_a_row: int = 0
    _started: float = field(default_factory=time.monotonic)

    @property
    def is_due(self) -> bool:
        return self.due is not None and time.monotonic() >= self.due

    def started(self) -> None:
        self.due = None
        self._started = time.monotonic()

    def died(self, *, worked: bool) -> float | None:
        """The seconds until its next start; None: it is given up."""
        now = time.monotonic()
        if worked or now - self._started > HEALTHY_SECONDS:
            self.healthy_before = True
            self._in_a_row = 0
        if self._in_a_row >= MAX_RESTARTS and not self.healthy_before:
            return None
        pause = min(LONGEST_PAUSE, self.first_pause * 2 ** min(self._in_a_row, 16))
        self._in_a_row += 1
        self.due = now + pause
        return pause


@dataclass
class Child:
    """A program that is started again when it dies.

    Attributes:
        address_file: where the child writes its address once it serves, and whether it has done work.
        final: exit statuses (negative: minus a signal's number) after which it is not started again.
        progress: what grows as it works, for one without an address file.
        status: its exit status once it has ended for good.
    """

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path | None = None
    address_file: Path | None = None
    final: Container[int] = (WRONG_SETTINGS,)
    progress: Callable[[], object] | None = None
    restarts: Restarts = field(default_factory=Restarts)
    process: subprocess.Popen[bytes] | None = None
    status: int | None = None
    _progress_before: object = None

    def start(self) -> subprocess.Popen[bytes]:
        if self.address_file is not None:
            self.address_file.unlink(missing_ok=True)
        if self.progress is not None:
            self._progress_before = self.progress()
        self.process = start_process(self.command, self.environment, log=self.log)
        self.restarts.started()
        return self.process

    def keep_running(self, report: Callable[[str], None]) -> bool:
        """Starts it again if it has died and the pause is over; whether it was started.

        `report` receives a line on each death.
        """
        if self.process is None:
            if self.status is not None or (self.restarts.due is not None and not self.restarts.is_due):
                return False
            self.start()
            return True
        code = self.process.poll()
        if code is None:
            return False
        self.process = None
        pause = None if code in self.final else self.restarts.died(worked=self._worked())
        if pause is None:
            self.status = code
        else:
            log = f" (log: {self.log})" if self.log else ""
            report(f"{self.name} {how_it_ended(code)}; restarting it in {pause:g} s{log}")
        return False

    def served_address(self) -> str:
        """The address it serves on; empty before it does."""
        return str(self._announced().get("address", ""))

    def log_tail(self, lines: int = 15) -> str:
        if self.log is None:
            return ""
        return "\n".join(self.log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])

    def _worked(self) -> bool:
        if self.progress is not None:
            return self.progress() != self._progress_before
        announced = self._announced()
        return bool(announced.get("worked", announced))  # that of a gateway is done once it serves

    def _announced(self) -> dict[str, object]:
        if self.address_file is None or not self.address_file.exists():
            return {}
        facts: dict[str, object] = json.loads(self.address_file.read_text(encoding="utf-8"))
        return facts


def how_it_ended(code: int) -> str:
    """`ended with status 3`, or `was ended by SIGKILL`."""
    if code >= 0:
        return f"ended with status {code}"
    try:
        return f"was ended by {signal.Signals(-code).name}"
    except ValueError:  # a real-time signal
        return f"was ended by signal {-code}"
