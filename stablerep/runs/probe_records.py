"""Records of probes: what was measured, of what, on what, how, and how sure it is; and comparing them.

runs/<run>/probes/<data>-<protocol>-<id>.json, or a file of the user's.
"""

import hashlib
import json
from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from stablerep.errors import InvalidInput, TornObject

Protocol = Literal[
    "frozen", "stablerep", "dinov3-linear", "logreg", "knn", "fewshot", "zeroshot", "retrieval"
]
"""See stablerep/evaluation/protocols.py, and stablerep/training/zero_shot.py for the last two."""


class Score(BaseModel):
    """An accuracy, 0 to 1, and its 95 % interval."""

    model_config = ConfigDict(frozen=True)

    value: float
    low: float
    high: float


class ProbeRecord(BaseModel):
    """One measurement. Records may be ranked if `data_digest`, `protocol` and `settings` agree."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    model: str
    data: str
    data_digest: str
    protocol: Protocol
    settings: dict[str, Any]
    feature: str
    scores: dict[str, Score]
    details: dict[str, Any]
    versions: dict[str, str]
    time: datetime

    @property
    def name(self) -> str:
        """A name that other measurements do not have."""
        identity = json.dumps([self.model, self.data_digest, self.settings], sort_keys=True)
        return f"{self.data}-{self.protocol}-{hashlib.sha256(identity.encode()).hexdigest()[:8]}.json"


def parse_record(content: bytes, name: str) -> ProbeRecord:
    """A record read back. Raises TornObject for anything else."""
    try:
        return ProbeRecord.model_validate_json(content)
    except ValidationError as error:
        raise TornObject(f"{name} is no record of a probe: {error.errors()[0]['msg']}") from None


def compare(records: Sequence[ProbeRecord]) -> str:
    """A table of records, the best first. Raises InvalidInput, naming the difference, for unlike ones."""
    first = records[0]
    for other in records[1:]:
        for field in ("data_digest", "protocol", "settings"):
            if getattr(first, field) != getattr(other, field):
                why = _difference(first, other, field)
                message = f"{first.model} and {other.model} were not measured alike: {why}"
                raise InvalidInput(message, field="records")
    names = list(first.scores)
    width = max(len(record.model) for record in records)
    lines = [f"{'':{width}}" + "".join(f"{name:>24}" for name in names)]
    for record in sorted(records, key=lambda one: -one.scores[names[0]].value):
        cells = (record.scores[name] for name in names)
        shown = "".join(
            f"{f'{c.value * 100:.1f} ({c.low * 100:.1f} to {c.high * 100:.1f})':>24}" for c in cells
        )
        lines.append(f"{record.model:{width}}{shown}")
    return "\n".join(lines)


def _difference(first: ProbeRecord, other: ProbeRecord, field: str) -> str:
    if field == "data_digest":
        return f"other photographs ({first.data}, {other.data})"
    one, two = getattr(first, field), getattr(other, field)
    if isinstance(one, dict):
        key = next(key for key in {**one, **two} if one.get(key) != two.get(key))
        field, one, two = f"{field}.{key}", one.get(key), two.get(key)
    return f"{field} is {one} and {two}"
