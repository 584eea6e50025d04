"""The process of one run on this machine: started, watched, started again, and its end written down."""

import os
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Protocol

from services.trainer.exits import CANNOT, FINISHED, STOPPED
from stablerep.config.settings import Settings
from stablerep.cores import cores
from stablerep.local.children import Child, how_it_ended, wait_or_kill
from stablerep.runs.records import (
    RunEnd,
    StatusRecord,
    end_run,
    log_key,
    now,
    read_end,
    read_status,
    write_status,
)
from stablerep.runs.spec import RunSpec
from stablerep.storage.interface import Store

POLL_SECONDS = 0.2
LOOK_SECONDS = 2.0
"""Between two looks at what the store says of the run."""
LOG_SECONDS = 5.0
STOP_SECONDS = 120.0
"""For a checkpoint after SIGTERM."""
MAX_LOG_BYTES = 1 << 20
"""The end of a log that the store keeps."""


class Stop(Protocol):
    """When the run is to be left for another time."""

    def is_set(self) -> bool: ...

    def wait(self, seconds: float) -> bool: ...


class RunProcess:
    """`python -m services.trainer.launch --run NAME` until the run is over or `stop` is set."""

    def __init__(self, store: Store, spec: RunSpec, settings: Settings) -> None:
        self._store, self._spec, self._settings = store, spec, settings
        self._start_time: datetime | None = None
        self._failures = 0
        self._shown: StatusRecord | None = None
        self._logged = (0.0, -1)

    def run_to_end(self, stop: Stop) -> None:
        """Returns once the run's end is in the store, or its process has stopped as `stop` wants."""
        with tempfile.TemporaryDirectory(prefix="stablerep-run-") as folder:
            child = self._child(Path(folder))
            before = read_status(self._store, self._spec.run)  # by a service that was stopped
            self._start_time = (before and before.start_time) or now()
            child.start()
            try:
                self._watch(child, stop)
            finally:
                child.process.terminate()
                wait_or_kill(child.process, STOP_SECONDS)
                self._keep_log(child, last=True)
                over = read_end(self._store, self._spec.run) is not None
                self._show(running=False, message="" if over else "waits for a trainer service")

    def _watch(self, child: Child, stop: Stop) -> None:
        looked = 0.0
        self._show(running=True, message=f"process {child.process.pid} of a trainer service")
        while not stop.wait(POLL_SECONDS):
            code = child.process.poll()
            if code is not None and not self._go_on(child, code, stop):
                return
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                if read_end(self._store, self._spec.run) is not None:
                    return
                if self._overdue():
                    self._end("FAILED", f"it ran longer than its deadline of {self._spec.deadline_seconds} s")
                    return
            self._keep_log(child)

    def _go_on(self, child: Child, code: int, stop: Stop) -> bool:
        """What becomes of a process that has ended; False when that is the end of the run."""
        self._keep_log(child, last=True)
        if code == FINISHED:
            self._end("SUCCEEDED")
            return False
        if code == CANNOT:
            self._end("FAILED", child.log_tail(1) or how_it_ended(code))
            return False
        if code != STOPPED:  # somebody else stopped it: that is no failure
            self._failures += 1
        if self._failures > self._spec.max_restarts:
            self._end("FAILED", f"its process {how_it_ended(code)}; its log ends:\n{child.log_tail(5)}")
            return False
        child.restarts.died(worked=code == STOPPED)
        pause = max(0.0, (child.restarts.due or 0.0) - time.monotonic())
        self._show(running=False, message=f"its process {how_it_ended(code)}; starts again in {pause:.0f} s")
        if stop.wait(pause):
            return False
        child.start()
        self._show(running=True, message=f"process {child.process.pid} of a trainer service")
        return True

    def _child(self, folder: Path) -> Child:
        threads = max(1, cores() // self._spec.resources.processes)
        environment = {
            "STABLEREP_STORE_URL": self._settings.store_url,
            "STABLEREP_TRAINER__METRICS_ADDRESS": self._settings.trainer.metrics_address,
            "TORCH_ELASTIC_SHUTDOWN_TIMEOUT": str(int(STOP_SECONDS)),
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", str(threads)),
        }
        command = [sys.executable, "-u", "-m", "services.trainer.launch", "--run", self._spec.run]
        child = Child(f"run {self._spec.run}", command, environment, log=folder / "run.log")
        child.restarts.healthy_before = True  # the run's own number of restarts counts
        return child

    def _overdue(self) -> bool:
        limit = self._spec.deadline_seconds
        return bool(limit and self._start_time and (now() - self._start_time).total_seconds() > limit)

    def _end(self, state: RunEnd, error: str = "") -> None:
        end_run(self._store, self._spec.run, state, error)

    def _show(self, *, running: bool, message: str) -> None:
        status = StatusRecord(
            running=running, message=message, restarts=self._failures, start_time=self._start_time
        )
        if status != self._shown:
            write_status(self._store, self._spec.run, status)
            self._shown = status

    def _keep_log(self, child: Child, *, last: bool = False) -> None:
        """Puts the end of the log into the store, if it has grown."""
        when, size_before = self._logged
        if child.log is None or (not last and time.monotonic() - when < LOG_SECONDS):
            return
        size = child.log.stat().st_size
        if size != size_before:
            with child.log.open("rb") as file:
                file.seek(max(0, size - MAX_LOG_BYTES))
                self._store.put(log_key(self._spec.run, 0), file.read())
        self._logged = (time.monotonic(), size)
