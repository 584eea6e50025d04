"""The metrics that a run has logged, read while it goes on: only what is new is fetched."""

import json
from dataclasses import dataclass, field

from stablerep.errors import TornObject
from stablerep.shards.layout import run_key
from stablerep.storage.interface import Store

Metrics = dict[str, float]


@dataclass
class MetricsTail:
    """Reads `metrics.jsonl` on from where the last look ended.

    A run that resumes drops what it had logged beyond its checkpoint: lines of those steps come again then,
    and a reader takes the later ones.
    """

    store: Store
    run: str
    after_step: int = 0
    _offset: int = field(default=0, init=False)
    _etag: str = field(default="", init=False)

    def new(self) -> list[Metrics]:
        """What was logged since the last call, each with its `step`; beyond `after_step` only."""
        key = run_key(self.run, "metrics.jsonl")
        info = self.store.stat(key)
        if info is None or info.etag == self._etag:
            return []
        if info.size < self._offset:
            self._offset = 0  # resumed: earlier lines are the same, those after the checkpoint are gone
        try:
            text = self.store.get_range(key, self._offset, info.size - self._offset)
            found = [line for line in map(_metrics, text.splitlines()) if line["step"] > self.after_step]
        except (TornObject, ValueError, TypeError, KeyError, AttributeError, RecursionError):
            # Rewritten meanwhile, shorter or with other lines: from the start.
            self._offset, self._etag = 0, ""
            return []
        self._offset, self._etag = info.size, info.etag
        if found:
            self.after_step = int(found[-1]["step"])
        return found


def _metrics(line: bytes) -> Metrics:
    return {key: float(value) for key, value in json.loads(line).items()}
