"""Making a probe's record: intervals of its scores, what it was measured on, with which versions."""

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablerep.evaluation.datasets.photographs import Photographs
from stablerep.runs.probe_records import ProbeRecord, Protocol, Score
from stablerep.runs.records import now

_Z = 1.959963984540054  # of the normal distribution, for 95 %
_RESAMPLES = 200
_PACKAGES = ("stablerep", "torch", "timm", "numpy")


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
