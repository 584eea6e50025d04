"""Who trains a run: every start of its first process, and that one process at a time does.

runs/<run>/starts/000001.json   host, process, command, versions, device; renewed while it trains

The start with the highest number owns the run. It is created only if absent, so of two processes one gets
it; a process takes a run over once its owner has said that it ended, is known to be dead, or has not renewed
for LAPSE_SECONDS.
"""

import os
import platform
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from stablerep.errors import AlreadyExists, StableRepError
from stablerep.local.children import COMMAND_VARIABLE
from stablerep.runs.records import now
from stablerep.shards.layout import run_key
from stablerep.storage import Store

LAPSE_SECONDS = 20.0
RENEW_SECONDS = 5.0
_PACKAGES = ("stablerep", "torch", "torchvision", "timm", "numpy")


class Start(BaseModel):
    """One start of a run's first process.

    Attributes:
        ended: it gave the run up by itself.
        beat: counts renewals.
        command: what was typed to start it, if known.
    """

    model_config = ConfigDict(frozen=True)

    time: datetime
    host: str
    boot: str
    process: int
    command: str = ""
    device: str = ""
    ranks: int = 1
    versions: dict[str, str] = {}
    beat: int = 0
    renew_time: datetime
    ended: bool = False


@contextmanager
def owned(
    store: Store, run: str, device: torch.device, ranks: int, lost: Callable[[], None]
) -> Iterator[None]:
    """Owns the run inside; `lost` is called, by another thread, if another process took it over.

    Waits for an owner that may be dead. Raises AlreadyExists, naming it, for one that is alive.
    """
    number, start = _acquire(store, run, _this(device, ranks))
    stop = threading.Event()
    renewing = threading.Thread(
        target=_renew, args=(store, run, number, start, stop, lost), name="owner", daemon=True
    )
    renewing.start()
    try:
        yield
    finally:
        stop.set()
        renewing.join()
        with suppress(StableRepError):  # a lease that cannot be given back lapses
            if _highest(store, run) == number:
                _write(store, run, number, start.model_copy(update={"ended": True, "renew_time": now()}))


def _acquire(store: Store, run: str, start: Start) -> tuple[int, Start]:
    while True:
        number = _highest(store, run)
        if number:
            _await_end(store, run, number, start)
        if _write(store, run, number + 1, start, if_absent=True):
            return number + 1, start


def _await_end(store: Store, run: str, number: int, own: Start) -> None:
    """Returns once that start owns nothing any more. Raises AlreadyExists if it renews."""
    first = _read(store, run, number)
    began = time.monotonic()
    told = False
    while first is not None and not first.ended and not _is_dead(first, own):
        seen = _read(store, run, number)
        if seen is None or seen.ended or _highest(store, run) != number:
            return
        if seen.beat != first.beat:
            message = (
                f"run {run} is being trained by process {seen.process} on {seen.host} since "
                f"{seen.time:%Y-%m-%d %H:%M} UTC; wait for it, stop it, or name another run"
            )
            raise AlreadyExists(message, field="run")
        if time.monotonic() - began > LAPSE_SECONDS:
            return
        if not told:
            told = True
            print(
                f"{run}: process {seen.process} on {seen.host} had it last and did not say that it ended; "
                f"waiting up to {LAPSE_SECONDS:.0f} s to see whether it is alive",
                flush=True,
            )
        time.sleep(0.5)


def _is_dead(start: Start, own: Start) -> bool:
    """Whether its process is known to be gone: it was on this machine, and is not there."""
    if (start.host, start.boot) != (own.host, own.boot):
        return False
    if start.process == own.process:
        return True  # in a container every process may have the same number: it was in the one before
    try:
        os.kill(start.process, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    return False


def _renew(
    store: Store, run: str, number: int, start: Start, stop: threading.Event, lost: Callable[[], None]
) -> None:
    beat = 0
    while not stop.wait(RENEW_SECONDS):
        beat += 1
        try:
            if _highest(store, run) != number:
                lost()
                return
            _write(store, run, number, start.model_copy(update={"beat": beat, "renew_time": now()}))
        except StableRepError:
            continue  # a store that is down lets nobody else take the run either


def _this(device: torch.device, ranks: int) -> Start:
    moment = now()
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else platform.processor() or "cpu"
    return Start(
        time=moment,
        host=socket.gethostname(),
        boot=_boot(),
        process=os.getpid(),
        command=os.environ.get(COMMAND_VARIABLE, ""),
        device=name,
        ranks=ranks,
        versions={"python": platform.python_version(), **dict(_versions())},
        renew_time=moment,
    )


def _versions() -> Iterator[tuple[str, str]]:
    for package in _PACKAGES:
        try:
            yield package, version(package)
        except PackageNotFoundError:
            continue


def _boot() -> str:
    """Tells this start of this machine's (or container's) processes from any other's, on Linux."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{boot}/{Path('/proc/self/ns/pid').readlink()}"
    except OSError:
        return ""


def _highest(store: Store, run: str) -> int:
    prefix = run_key(run, "starts/")
    return max((int(entry.key.removeprefix(prefix).split(".")[0]) for entry in store.list(prefix)), default=0)


def _read(store: Store, run: str, number: int) -> Start | None:
    """A start; None for one that says nothing, such as a half-written one."""
    try:
        return Start.model_validate_json(store.get(_key(run, number)))
    except ValidationError:
        return None


def _write(store: Store, run: str, number: int, start: Start, *, if_absent: bool = False) -> bool:
    return store.put(_key(run, number), start.model_dump_json(indent=1).encode(), if_absent=if_absent)


def _key(run: str, number: int) -> str:
    return run_key(run, f"starts/{number:06d}.json")
