"""The protocols that a frozen encoder is measured by, each to a record.

frozen     logistic regression on all labels and on few, nearest neighbours; quick, and what the demo reports
stablerep  the paper's linear probe: SGD heads over a grid of rates, with and without batch norm (app. A.5)
logreg     the linear probe of the transfer tables: L-BFGS, 45 strengths chosen on a validation split, fitted
           again on all (Kornblith et al. 2019; the release's main_downstream_linear)
fewshot    5-way 5-shot episodes, nearest class mean, on the test photographs
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from stablerep.evaluation.datasets.photographs import Photographs
from stablerep.evaluation.features import Encoder, extract_features
from stablerep.evaluation.probe import paper_probe, probe_model
from stablerep.evaluation.probes.episodes import few_shot_episodes
from stablerep.evaluation.probes.linear import linear_probe
from stablerep.evaluation.records import ProbeRecord, make_record, over_draws, wilson
from stablerep.evaluation.split import split_validation

TRANSFER_STRENGTHS = torch.logspace(-5, 6, 45)
"""C = 1 / lambda for the 45 lambdas from 1e-6 to 1e5."""
_MOST_FEW = 10
_EPOCHS = 90


@dataclass(frozen=True)
class ProbeSettings:
    """How to measure; `few_labels` None: 10 a class, or as many as the smallest class has."""

    seed: int = 0
    few_labels: int | None = None
    draws: int = 20
    neighbours: int = 20
    batch: int = 250
    ways: int = 5
    shots: int = 5
    queries: int = 15
    episodes: int = 600


def measure(
    protocol: str, encoder: Encoder, model: str, data: Photographs, settings: ProbeSettings
) -> ProbeRecord:
    """The record of one protocol; `model` is how the encoder is called in it. Raises InvalidInput."""
    return PROTOCOLS[protocol](encoder, model, data, settings)


def _frozen(encoder: Encoder, model: str, data: Photographs, settings: ProbeSettings) -> ProbeRecord:
    options: dict[str, Any] = {
        "seed": settings.seed,
        "few_labels": settings.few_labels or _fewest(data, settings.seed),
        "draws": settings.draws,
        "neighbours": settings.neighbours,
    }
    result = probe_model(encoder, data, batch=settings.batch, **options)
    scores = {
        "linear": wilson(result.linear, result.test_photographs),
        "few": over_draws(result.few_draws),
        "knn": wilson(result.knn, result.test_photographs),
    }
    return make_record(model, data, "frozen", options, scores, asdict(result))


def _stablerep(encoder: Encoder, model: str, data: Photographs, settings: ProbeSettings) -> ProbeRecord:
    result = paper_probe(encoder, data, seed=settings.seed, epochs=_EPOCHS)
    options = {"seed": settings.seed, "epochs": _EPOCHS}
    score = wilson(result.accuracy, len(data.test_labels))
    return make_record(model, data, "stablerep", options, {"linear": score}, asdict(result))


def _logreg(encoder: Encoder, model: str, data: Photographs, settings: ProbeSettings) -> ProbeRecord:
    train, test = _features(encoder, data, settings)
    labels, split = (
        torch.from_numpy(data.train_labels),
        split_validation(data.train_labels, seed=settings.seed),
    )
    fitted, validation = torch.from_numpy(split.train), torch.from_numpy(split.validation)
    result = linear_probe(
        train[fitted],
        labels[fitted],
        train[validation],
        labels[validation],
        test,
        torch.from_numpy(data.test_labels),
        strengths=TRANSFER_STRENGTHS,
    )
    options = {"seed": settings.seed, "strengths": len(TRANSFER_STRENGTHS)}
    scores = {"linear": wilson(result.accuracy, len(data.test_labels))}
    return make_record(model, data, "logreg", options, scores, asdict(result))


def _fewshot(encoder: Encoder, model: str, data: Photographs, settings: ProbeSettings) -> ProbeRecord:
    options = {
        "seed": settings.seed,
        "ways": settings.ways,
        "shots": settings.shots,
        "queries": settings.queries,
        "episodes": settings.episodes,
    }
    _, test = _features(encoder, data, settings)
    result = few_shot_episodes(test, torch.from_numpy(data.test_labels), **options)
    scores = {f"{settings.ways}-way {settings.shots}-shot": over_draws(result.accuracies)}
    return make_record(model, data, "fewshot", options, scores, {"accuracy": result.accuracy})


def _features(
    encoder: Encoder, data: Photographs, settings: ProbeSettings
) -> tuple[torch.Tensor, torch.Tensor]:
    seen = data if isinstance(encoder, str) else data.framed()
    train, test = (
        extract_features(encoder, images, batch=settings.batch)
        for images in (seen.train_images, seen.test_images)
    )
    return train, test


def _fewest(data: Photographs, seed: int) -> int:
    kept = split_validation(data.train_labels, seed=seed).train
    return min(_MOST_FEW, int(np.bincount(data.train_labels[kept]).min()))


PROTOCOLS: dict[str, Callable[[Encoder, str, Photographs, ProbeSettings], ProbeRecord]] = {
    "frozen": _frozen,
    "stablerep": _stablerep,
    "logreg": _logreg,
    "fewshot": _fewshot,
}
