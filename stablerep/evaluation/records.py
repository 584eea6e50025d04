"""Records of probes: what was measured, of what, on what, how, and how sure it is; and comparing them.

runs/<run>/probes/<data>-<protocol>-<id>.json, or a file of the user's.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from importlib.metadata import version
from typing import Any, Literal

import numpy as np
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from stablerep.errors import InvalidInput, TornObject
from stablerep.evaluation.datasets.photographs import Photographs
from stablerep.runs.records import now

_Z = 1.959963984540054  # of the normal distribution, for 95 %
_RESAMPLES = 200
_PACKAGES = ("stablerep", "torch", "timm", "numpy")

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


def wilson(accuracy: float, count: int) -> Score:
    """An accuracy on `count` photographs with the interval of Wilson (1927)."""
    centre = (accuracy + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z / (1 + _Z**2 / count) * math.sqrt(accuracy * (1 - accuracy) / count + _Z**2 / (4 * count**2))
    return Score(value=accuracy, low=max(0.0, centre - half), high=min(1.0, centre + half))


def over_draws(accuracies: Sequence[float]) -> Score:
    """The mean over draws, 1.96 standard errors around it."""
    mean = float(np.mean(accuracies))
    half = _Z * float(np.std(accuracies, ddof=1)) / math.sqrt(len(accuracies)) if len(accuracies) > 1 else 0.0
    return Score(value=mean, low=mean - half, high=mean + half)


def by_bootstrap(
    value: float, metric: Callable[[Tensor, Tensor], Tensor], scores: Tensor, labels: Tensor
) -> Score:
    """A metric with the middle 95 % of what it is on photographs drawn again, with replacement.

    `scores` [k n], `labels` [n], or [k n] where there are several.
    """
    random = torch.Generator().manual_seed(0)
    count = scores.shape[1]
    drawn = []
    for _ in range(_RESAMPLES):
        chosen = torch.randint(count, (count,), generator=random)
        drawn.append(float(metric(scores[:, chosen], labels[..., chosen])))
    low, high = np.quantile(drawn, [0.025, 0.975]).tolist()
    return Score(value=value, low=min(low, value), high=max(high, value))


def digest_of(data: Photographs) -> str:
    """SHA-256 of the photographs, their labels and their split."""
    if data.digest:
        return data.digest
    digest = hashlib.sha256()
    for array in (data.train_images, data.train_labels, data.test_images, data.test_labels):
        digest.update(f"{array.shape}{array.dtype}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


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


def make_record(
    model: str,
    data: Photographs,
    protocol: Protocol,
    settings: Mapping[str, Any],
    scores: dict[str, Score],
    details: dict[str, Any],
) -> ProbeRecord:
    """A record of now, of photographs; `details` is all that was found beside the scores."""
    return make_data_record(model, data.name, digest_of(data), protocol, settings, scores, details)


def make_data_record(
    model: str,
    data: str,
    data_digest: str,
    protocol: Protocol,
    settings: Mapping[str, Any],
    scores: dict[str, Score],
    details: dict[str, Any],
) -> ProbeRecord:
    """A record of now, of any data of this name and digest."""
    return ProbeRecord(
        model=model,
        data=data,
        data_digest=data_digest,
        protocol=protocol,
        settings=dict(settings),
        feature="pixels" if model == "pixels" else "pooled output of the encoder",
        scores=scores,
        details=details,
        versions={package: version(package) for package in _PACKAGES},
        time=now(),
    )
