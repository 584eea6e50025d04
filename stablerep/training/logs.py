"""Metrics of a run in the store: metrics.jsonl, TensorBoard event files and progress.json."""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from torch.utils.tensorboard import SummaryWriter

from stablerep.errors import NotFound
from stablerep.runs.records import Progress, write_progress
from stablerep.shards.layout import run_key
from stablerep.storage import Store

_FLUSH_SECONDS = 5.0


class RunLog:
    """Metrics of one run; `resumed_at` drops what an interrupted run had logged beyond its checkpoint.

    Object stores cannot append, so metrics are kept as lines and the file is rewritten every few seconds.
    """

    def __init__(self, store: Store, run: str, resumed_at: int) -> None:
        self._store, self._run = store, run
        self._lines = [line for line in _read_lines(store, run) if line["step"] <= resumed_at]
        self._folder = TemporaryDirectory(prefix="stablerep-tensorboard-")
        self._events = SummaryWriter(self._folder.name, purge_step=resumed_at + 1)
        self._flushed = time.monotonic()
        self._progress: Progress | None = None

    def add(self, progress: Progress, metrics: dict[str, float]) -> None:
        """Records the metrics after `progress.step` steps."""
        self._progress = progress
        self._lines.append({"step": progress.step, **metrics})
        for name, value in metrics.items():
            self._events.add_scalar(name, value, progress.step)
        if time.monotonic() - self._flushed > _FLUSH_SECONDS:
            self.flush()

    def add_to(self, step: int, metrics: Mapping[str, float]) -> None:
        """Records more metrics after `step` steps, in its line if it has one."""
        if not self._lines or self._lines[-1]["step"] != step:
            self._lines.append({"step": step})
        self._lines[-1].update(metrics)
        for name, value in metrics.items():
            self._events.add_scalar(name, value, step)

    def flush(self) -> None:
        """Writes everything so far to the store."""
        text = "".join(json.dumps(line) + "\n" for line in self._lines)
        self._store.put(run_key(self._run, "metrics.jsonl"), text.encode())
        self._events.flush()
        for file in Path(self._folder.name).iterdir():
            self._store.put(run_key(self._run, f"tensorboard/{file.name}"), file)
        if self._progress is not None:
            write_progress(self._store, self._run, self._progress)
        self._flushed = time.monotonic()

    def close(self) -> None:
        self.flush()
        self._events.close()
        self._folder.cleanup()


def _read_lines(store: Store, run: str) -> list[dict[str, Any]]:
    try:
        content = store.get(run_key(run, "metrics.jsonl"))
    except NotFound:
        return []
    return [json.loads(line) for line in content.splitlines()]
