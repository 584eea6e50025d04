"""What the compose test prints: a line with the seconds since its start, and commands as they are run."""

import os
import shlex
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

_start = time.monotonic()


class CommandFailed(Exception):
    """A command that had to work did not; the text holds the end of what it printed."""


def say(text: str) -> None:
    """One line of the transcript."""
    print(f"{time.monotonic() - _start:7.1f} s  {text}", flush=True)


def run(
    command: Sequence[str],
    *,
    environment: Mapping[str, str] | None = None,
    folder: Path | None = None,
    log: Path | None = None,
    timeout: float = 600,
    shown: str = "",
) -> str:
    """What the command printed on stdout. Raises CommandFailed when its exit status is not 0.

    Args:
        environment: added to this process'.
        log: a file that gets the output, stderr included, instead of the caller.
        shown: how the command stands in the transcript; empty: it is left out.
    """
    if shown:
        say(f"$ {shown}")
    try:
        # A group of its own: when this test is stopped, what the command has started ends with it.
        process = subprocess.Popen(
            list(command),
            env=os.environ | dict(environment or {}),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT if log else subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        )
    except FileNotFoundError as error:
        raise CommandFailed(f"{command[0]} is not here: {error.strerror}") from None
    try:
        printed, problems = process.communicate(timeout=timeout)
    except BaseException as error:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        if isinstance(error, subprocess.TimeoutExpired):
            raise CommandFailed(f"{shlex.join(command)} took more than {timeout:.0f} s") from None
        raise
    if log:
        log.write_text(printed, encoding="utf-8")
    if process.returncode != 0:
        said = (problems or printed or "").strip()[-2000:]
        raise CommandFailed(f"{shlex.join(command)} ended with status {process.returncode}:\n{said}")
    return printed
