"""One worker process a GPU (`python -m services.generator --workers auto`), restarted when it dies."""

import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from stablerep.config.settings import GeneratorSettings
from stablerep.errors import InvalidInput
from stablerep.local.children import WRONG_SETTINGS, Child, how_it_ended

logger = logging.getLogger("stablerep.generator")
POLL_SECONDS = 0.1
FINAL = (0, WRONG_SETTINGS)
"""A worker that was drained ends with 0 and is not restarted."""


def plan_workers(
    workers: str, arguments: Sequence[str], settings: GeneratorSettings, folder: Path
) -> list[Child]:
    """The processes for `--workers`: a number, or `auto` for one a GPU, and one where there is none.

    Worker i sees GPU i alone; i is added to fixed ports and to the name of its address file, which lies in
    `folder` if the settings name none.

    Raises:
        InvalidInput: no number of workers, or a device that they cannot share.
    """
    if settings.device not in ("", "cuda", "cpu"):
        raise InvalidInput(
            f"is {settings.device!r}, but several workers need cuda or cpu", field="generator.device"
        )
    gpus = [] if settings.device == "cpu" else visible_gpus()
    count = max(1, len(gpus)) if workers == "auto" else _number(workers)
    announce = settings.announce or folder / "address.json"
    return [
        Child(
            f"worker {number}",
            [
                sys.executable,
                "-m",
                "services.generator",
                *arguments,
                *_own_settings(settings, number, address_file),
            ],
            {"CUDA_VISIBLE_DEVICES": gpus[number % len(gpus)]} if gpus else {},
            address_file=address_file,
            final=FINAL,
        )
        for number in range(count)
        for address_file in [announce.with_stem(f"{announce.stem}-{number}")]
    ]


def visible_gpus() -> list[str]:
    """The value of CUDA_VISIBLE_DEVICES for each GPU that this process may use."""
    # In a process of its own: this one stays small and keeps off the GPUs.
    asking = [sys.executable, "-c", "import torch; print(torch.cuda.device_count())"]
    count = int(subprocess.run(asking, stdout=subprocess.PIPE, check=True, text=True).stdout)
    named = [name.strip() for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name.strip()]
    return (named or [str(number) for number in range(count)])[:count]


class Supervisor:
    """Runs children until all have ended for good; passes SIGTERM and SIGINT on, each time they come."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = children
        self._signal = 0
        self._stopping = False

    def run(self) -> int:
        """Returns the worst exit status, 128 + n of a worker ended by signal n. For the main thread alone."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._note_signal)
        for child in self._children:
            child.start()
        while [child for child in self._children if not self._has_ended(child)]:
            time.sleep(POLL_SECONDS)
            self._pass_signal_on()
        codes = [child.status or 0 for child in self._children]
        return max(128 - code if code < 0 else code for code in codes)

    def _has_ended(self, child: Child) -> bool:
        if child.status is None and self._stopping:
            child.status = child.process.poll()
        elif child.status is None:
            child.keep_running(logger.error)
            if child.status:
                logger.error("%s %s and is not restarted", child.name, how_it_ended(child.status))
            if child.status == WRONG_SETTINGS:
                self._signal = signal.SIGTERM
        return child.status is not None

    def _note_signal(self, number: int, frame: FrameType | None) -> None:
        self._signal = number

    def _pass_signal_on(self) -> None:
        number, self._signal = self._signal, 0
        if number:
            self._stopping = True
            for child in self._children:
                child.process.send_signal(number)


def _number(workers: str) -> int:
    if not workers.isdecimal() or not 1 <= int(workers) <= 64:
        raise InvalidInput(f"{workers!r} is neither auto nor a number from 1 to 64", field="--workers")
    return int(workers)


def _own_settings(settings: GeneratorSettings, number: int, address_file: Path) -> list[str]:
    own = {
        "address": _add_to_port(settings.address, number),
        "metrics_address": _add_to_port(settings.metrics_address, number),
        "announce": address_file,
    }
    return [word for key, value in own.items() for word in ("--set", f"generator.{key}={value}")]


def _add_to_port(address: str, number: int) -> str:
    host, colon, port = address.rpartition(":")
    return f"{host}{colon}{int(port) + number}" if port.isdecimal() and int(port) else address
