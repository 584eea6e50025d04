"""One worker process a GPU (`python -m services.generator --workers auto`), started again when it dies."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from types import FrameType

from stablerep.config.settings import GeneratorSettings
from stablerep.errors import InvalidInput
from stablerep.local.processes import die_with_parent

logger = logging.getLogger("stablerep.generator")
POLL_SECONDS = 0.1
HEALTHY_SECONDS = 120.0
"""A worker that lived so long had a good start: its next death is a first one again."""
MAX_RESTARTS = 5
LONGEST_PAUSE = 60.0
WRONG_SETTINGS = 2


@dataclass
class Child:
    """One worker process and what becomes of it."""

    number: int
    command: Sequence[str]
    environment: dict[str, str]
    process: subprocess.Popen[bytes] | None = None
    started: float = 0.0
    restarts: int = 0
    due: float | None = field(default_factory=time.monotonic)
    """When it is to be started; None while it runs, and for good once it has ended."""
    status: int = 0


def plan_workers(workers: str, arguments: Sequence[str], settings: GeneratorSettings) -> list[Child]:
    """The processes for `--workers`: a number, or `auto` for one a GPU, and one where there is none.

    Worker i sees GPU i alone; fixed ports are counted up by i, the announcement's name gets an i.

    Raises:
        InvalidInput: no number of workers, or a device that they cannot share out.
    """
    if settings.device not in ("", "cuda", "cpu"):
        raise InvalidInput("several workers share cuda out, or are all on cpu", field="generator.device")
    gpus = [] if settings.device == "cpu" else visible_gpus()
    count = max(1, len(gpus)) if workers == "auto" else _number(workers)
    return [
        Child(
            number,
            [sys.executable, "-m", "services.generator", *arguments, *_own_settings(settings, number)],
            {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {},
        )
        for number in range(count)
    ]


def visible_gpus() -> list[str]:
    """What CUDA_VISIBLE_DEVICES has to be for each GPU that this process may use."""
    # In a process of its own: this one stays small and keeps off the GPUs.
    asking = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    count = int(subprocess.run(asking, stdout=subprocess.PIPE, check=True, text=True).stdout)
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:count]


class Supervisor:
    """Runs children until all have ended; SIGTERM and SIGINT are passed on to them, each time they come.

    One that ends with an error is started again after 1, 2, 4, ... seconds, and given up after five times in
    a row; one that ended well (it was drained) is not.
    """

    def __init__(self, children: Sequence[Child], *, first_pause: float = 1.0) -> None:
        self._children = children
        self._first_pause = first_pause
        self._stopping = False

    def run(self) -> int:
        """Returns the worst exit status, 128 + n of a worker ended by signal n. For the main thread alone."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._pass_on)
        while any(child.process is not None or self._is_due_ever(child) for child in self._children):
            for child in self._children:
                self._look_after(child)
            time.sleep(POLL_SECONDS)
        return max(child.status for child in self._children)

    def _is_due_ever(self, child: Child) -> bool:
        return child.due is not None and not self._stopping

    def _look_after(self, child: Child) -> None:
        if child.process is None:
            if child.due is not None and time.monotonic() >= child.due and not self._stopping:
                self._start(child)
            return
        status = child.process.poll()
        if status is None:
            return
        child.process = None
        child.status = 128 - status if status < 0 else status
        if status == 0 or self._stopping:
            return
        if status == WRONG_SETTINGS:
            self._stop(signal.SIGTERM)
            return
        self._plan_restart(child)

    def _start(self, child: Child) -> None:
        child.due = None
        child.started = time.monotonic()
        child.process = subprocess.Popen(
            list(child.command),
            env=os.environ | child.environment,
            stdin=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C comes to this process alone, which passes it on
            preexec_fn=die_with_parent if sys.platform == "linux" else None,
        )
        logger.info("worker %d is process %d", child.number, child.process.pid)
        if self._stopping:  # the order came while it was started
            child.process.send_signal(signal.SIGTERM)

    def _plan_restart(self, child: Child) -> None:
        now = time.monotonic()
        if now - child.started > HEALTHY_SECONDS:
            child.restarts = 0
        if child.restarts >= MAX_RESTARTS:
            logger.error("worker %d ended with %d once too often: given up", child.number, child.status)
            return
        pause = min(LONGEST_PAUSE, self._first_pause * 2**child.restarts)
        child.restarts += 1
        child.due = now + pause
        logger.error(
            "worker %d ended with %d; it is started again in %g s", child.number, child.status, pause
        )

    def _pass_on(self, number: int, frame: FrameType | None) -> None:
        self._stop(number)

    def _stop(self, number: int) -> None:
        self._stopping = True
        for child in self._children:
            if child.process is not None and child.process.poll() is None:
                child.process.send_signal(number)


def _number(workers: str) -> int:
    if not workers.isdecimal() or not 1 <= int(workers) <= 64:
        raise InvalidInput(f"{workers!r} is neither auto nor a number from 1 to 64", field="--workers")
    return int(workers)


def _own_settings(settings: GeneratorSettings, number: int) -> list[str]:
    own = {
        "address": _counted_up(settings.address, number),
        "metrics_address": _counted_up(settings.metrics_address, number),
    }
    if settings.announce is not None:
        own["announce"] = str(settings.announce.with_stem(f"{settings.announce.stem}-{number}"))
    return [word for key, value in own.items() for word in ("--set", f"generator.{key}={value}")]


def _counted_up(address: str, number: int) -> str:
    host, colon, port = address.rpartition(":")
    return f"{host}{colon}{int(port) + number}" if port.isdecimal() and int(port) else address
