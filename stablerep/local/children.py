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
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path

WRONG_SETTINGS = 2
"""Exit status of a program whose settings cannot work: starting it again does not help."""
MAX_RESTARTS = 5
"""Restarts in a row of a child that has never worked."""
HEALTHY_SECONDS = 120.0
LONGEST_PAUSE = 60.0
COMMAND_VARIABLE = "STABLEREP_TYPED_COMMAND"
"""What the user typed, for a program that another command started."""
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
    with log.open("ab") if log else nullcontext() as out:
        return _starter.submit(
            subprocess.Popen[bytes],
            [sys.executable, "-I", "-S", "-c", _BECOME, str(os.getpid()), *command],
            env={**os.environ, **(environment or {})},
            stdin=stdin,
            stdout=out,
            stderr=subprocess.STDOUT if out else None,
            start_new_session=own_session,
        ).result()


def end_with_parent(parent: int | None = None) -> None:
    """Asks Linux to send this process SIGTERM when the one that started it ends; nothing elsewhere.

    Args:
        parent: its process id, if known: had it ended before this call, nothing else would say so.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
        if parent is not None and os.getppid() != parent:
            os.kill(os.getpid(), signal.SIGTERM)


def wait_or_kill(process: subprocess.Popen[bytes], seconds: float) -> None:
    """Waits for a process that was asked to end; kills it after `seconds`."""
    try:
        process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


@dataclass
class Restarts:
    """When a child that died is restarted: after 1, 2, 4, ... seconds, at most a minute.

    A child is healthy once it has done work or lived for two minutes: its next pause is the first one again.
    A child that was healthy before is never given up; any other is after five restarts in a row.
    """

    first_pause: float = 1.0
    healthy_before: bool = False
    due: float | None = None
    """When it is to be started; None while it runs."""
    _in_a_row: int = 0
    _started: float = field(default_factory=time.monotonic)

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

    def started(self) -> None:
        self.due, self._started = None, time.monotonic()


@dataclass
class Child:
    """A program that is restarted when it dies.

    Attributes:
        log: file of its output; None: that of this process.
        address_file: where the child writes its address once it serves, and whether it has worked.
        final: exit statuses (minus n: signal n) after which it is not restarted.
        progress: what grows as it works, for a child without an address file.
        stop_seconds: how long it may take to end after SIGTERM.
        status: its exit status once it has ended for good.
    """

    name: str
    command: Sequence[str]
    environment: dict[str, str]
    log: Path | None = None
    address_file: Path | None = None
    final: Container[int] = (WRONG_SETTINGS,)
    progress: Callable[[], object] | None = None
    stop_seconds: float = 30.0
    restarts: Restarts = field(default_factory=Restarts)
    status: int | None = None
    process: subprocess.Popen[bytes] = field(init=False)
    _progress_before: object = None

    def start(self) -> None:
        if self.address_file:
            self.address_file.unlink(missing_ok=True)
        if self.progress:
            self._progress_before = self.progress()
        self.process = start_process(self.command, self.environment, log=self.log)
        self.restarts.started()
        if self.log:
            written = self.log.with_suffix(".pid.new")  # renamed: a reader never finds half a number
            written.write_text(f"{self.process.pid}\n", encoding="utf-8")
            written.replace(self.log.with_suffix(".pid"))

    def keep_running(self, report: Callable[[str], None]) -> None:
        """Restarts it after a pause if it has died; `report` receives a line on each death."""
        code = self.process.poll()
        if code is None or self.status is not None:
            return
        if self.restarts.due is not None:
            if time.monotonic() >= self.restarts.due:
                self.start()
            return
        pause = None if code in self.final else self.restarts.died(worked=self._has_worked())
        if pause is None:
            self.status = code
        else:
            log = f" (log: {self.log})" if self.log else ""
            report(f"{self.name} {how_it_ended(code)}; restarting it in {pause:g} s{log}")

    def announced(self) -> dict[str, str | bool]:
        """The content of its address file; empty before it serves."""
        if self.address_file is None or not self.address_file.exists():
            return {}
        facts: dict[str, str | bool] = json.loads(self.address_file.read_text(encoding="utf-8"))
        return facts

    def log_tail(self, lines: int = 15) -> str:
        text = self.log.read_text(encoding="utf-8", errors="replace") if self.log else ""
        return "\n".join(text.splitlines()[-lines:])

    def _has_worked(self) -> bool:
        if self.progress:
            return self.progress() != self._progress_before
        announced = self.announced()
        return bool(announced.get("worked", announced))  # a gateway's work is to serve


def how_it_ended(code: int) -> str:
    """The words for an exit status, as `subprocess` has it."""
    if code >= 0:
        return f"ended with status {code}"
    return f"was ended by signal {-code} ({signal.strsignal(-code)})"
