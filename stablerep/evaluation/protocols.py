"""The protocols that a frozen encoder is measured by, each to a record.

frozen         logistic regression on all labels and on few, nearest neighbours; quick, what the demo reports
stablerep      the paper's linear probe: SGD heads over a grid of rates, with and without batch norm (A.5)
dinov3-linear  DINOv3's linear probe: SGD heads over 13 rates on a ViT's class token beside its mean patch
               token, 12,500 batches of 128; here without augmentation
logreg         the linear probe of the transfer tables: L-BFGS, 45 strengths chosen on a validation split,
               fitted again on all, each set by its own metric (Kornblith et al. 2019; main_downstream_linear)
knn            20 nearest neighbours by cosine of centred features
fewshot        5-way 5-shot episodes, nearest class mean, on the test photographs
"""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from stablerep.errors import InvalidInput
from stablerep.evaluation.datasets.photographs import Photographs
from stablerep.evaluation.feature_sets import FeatureSet
from stablerep.evaluation.metrics import METRICS
from stablerep.evaluation.probe import paper_probe, probe_model
from stablerep.evaluation.probes.episodes import few_shot_episodes
from stablerep.evaluation.probes.knn import knn_accuracy
from stablerep.evaluation.probes.linear import linear_probe, multi_label_probe
from stablerep.evaluation.probes.linear_sgd import paper_linear_probe
from stablerep.evaluation.records import by_bootstrap, make_record, over_draws, wilson
from stablerep.evaluation.split import Split, split_validation
from stablerep.runs.probe_records import ProbeRecord

TRANSFER_STRENGTHS = torch.logspace(-5, 6, 45)
"""C = 1 / lambda for the 45 lambdas from 1e-6 to 1e5."""
_MOST_FEW = 10
_EPOCHS = 90
_DINOV3_RATES = (1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 1e-2, 2e-2, 5e-2, 0.1)
_DINOV3_STEPS = 12_500
_DINOV3_BATCH = 128


@dataclass(frozen=True)
class ProbeSettings:
    """How to measure; `few_labels` None: 10 a class, or as many as the smallest class has."""

    seed: int = 0
    few_labels: int | None = None
    draws: int = 20
    neighbours: int = 20
    ways: int = 5
    shots: int = 5
    queries: int = 15
    episodes: int = 600


def measure(protocol: str, features: FeatureSet, model: str, settings: ProbeSettings) -> ProbeRecord:
    """The record of one protocol; `model` is how the encoder is called in it. Raises InvalidInput."""
    data = features.data
    if data.metric == "map11" and protocol != "logreg":
        message = f"{data.name} has several labels a photograph, which logreg alone measures"
        raise InvalidInput(message, field="protocol")
    return PROTOCOLS[protocol](features, model, settings)


def _frozen(features: FeatureSet, model: str, settings: ProbeSettings) -> ProbeRecord:
    data = features.data
    options: dict[str, Any] = {
        "seed": settings.seed,
        "few_labels": settings.few_labels or _fewest(data, settings.seed),
        "draws": settings.draws,
        "neighbours": settings.neighbours,
    }
    result = probe_model(features.encoder, data, features=features, **options)
    scores = {
        "linear": wilson(result.linear, result.test_photographs),
        "few": over_draws(result.few_draws),
        "knn": wilson(result.knn, result.test_photographs),
    }
    return make_record(model, data, "frozen", options, scores, asdict(result))


def _stablerep(features: FeatureSet, model: str, settings: ProbeSettings) -> ProbeRecord:
    data = features.data
    result = paper_probe(features.encoder, data, seed=settings.seed, epochs=_EPOCHS, features=features)
    options = {"seed": settings.seed, "epochs": _EPOCHS}
    score = wilson(result.accuracy, len(data.test_labels))
    return make_record(model, data, "stablerep", options, {"linear": score}, asdict(result))


def _dinov3_linear(features: FeatureSet, model: str, settings: ProbeSettings) -> ProbeRecord:
    data = features.data
    train, test = features.of("class+patches")
    split = _split(data, settings.seed)
    epochs = max(1, round(_DINOV3_STEPS * _DINOV3_BATCH / len(split.train)))
    result = paper_linear_probe(
        lambda epoch: train,
        torch.from_numpy(data.train_labels),
        torch.from_numpy(split.train),
        torch.from_numpy(split.validation),
        train,
        test,
        torch.from_numpy(data.test_labels),
        rates=_DINOV3_RATES,
        batch_norms=(False,),
        epochs=epochs,
        batch=_DINOV3_BATCH,
        seed=settings.seed,
    )
    options = {"seed": settings.seed, "steps": _DINOV3_STEPS, "batch": _DINOV3_BATCH, "augmented": False}
    score = wilson(result.accuracy, len(data.test_labels))
    record = make_record(model, data, "dinov3-linear", options, {"linear": score}, asdict(result))
    return record.model_copy(update={"feature": "class token and mean patch token"})


def _logreg(features: FeatureSet, model: str, settings: ProbeSettings) -> ProbeRecord:
    data = features.data
    train, test = features.of()
    labels, test_labels = torch.from_numpy(data.train_labels), torch.from_numpy(data.test_labels)
    split = _split(data, settings.seed)
    fitted, validation = torch.from_numpy(split.train), torch.from_numpy(split.validation)
    metric = METRICS[data.metric]
    probe = multi_label_probe if labels.ndim == 2 else linear_probe
    result = probe(
        train[fitted],
        labels[fitted],
        train[validation],
        labels[validation],
        test,
        test_labels,
        strengths=TRANSFER_STRENGTHS,
        metric=metric,
    )
    options = {"seed": settings.seed, "strengths": len(TRANSFER_STRENGTHS), "metric": data.metric}
    score = wilson(result.accuracy, len(test_labels))
    if data.metric != "top1":
        of_test = test_labels.T if labels.ndim == 2 else test_labels
        score = by_bootstrap(result.accuracy, metric, result.scores, of_test)
    details = {"strength": result.strength, "validation": result.validation_accuracy}
    return make_record(model, data, "logreg", options, {"linear": score}, details)


def _knn(features: FeatureSet, model: str, settings: ProbeSettings) -> ProbeRecord:
    data = features.data
    train, test = features.of()
    centre = train.mean(dim=0)
    labels, test_labels = torch.from_numpy(data.train_labels), torch.from_numpy(data.test_labels)
    accuracy = knn_accuracy(
        train - centre, labels, test - centre, test_labels, neighbours=settings.neighbours
    )
    options = {"neighbours": settings.neighbours}
    return make_record(model, data, "knn", options, {"knn": wilson(accuracy, len(test_labels))}, {})


def _fewshot(features: FeatureSet, model: str, settings: ProbeSettings) -> ProbeRecord:
    options = {
        "seed": settings.seed,
        "ways": settings.ways,
        "shots": settings.shots,
        "queries": settings.queries,
        "episodes": settings.episodes,
    }
    data = features.data
    result = few_shot_episodes(features.of()[1], torch.from_numpy(data.test_labels), **options)
    scores = {f"{settings.ways}-way {settings.shots}-shot": over_draws(result.accuracies)}
    return make_record(model, data, "fewshot", options, scores, {"accuracy": result.accuracy})


def _split(data: Photographs, seed: int) -> Split:
    """The set's own validation part, or a fifth of every class; of photographs of several labels, of all."""
    everything = np.arange(len(data.train_labels))
    if data.validation is not None:
        return Split(np.setdiff1d(everything, data.validation), data.validation)
    if data.train_labels.ndim == 2:
        validation = np.sort(np.random.default_rng([seed, 0]).permutation(everything)[: len(everything) // 5])
        return Split(np.setdiff1d(everything, validation), validation)
    return split_validation(data.train_labels, seed=seed)


def _fewest(data: Photographs, seed: int) -> int:
    kept = split_validation(data.train_labels, seed=seed).train
    return min(_MOST_FEW, int(np.bincount(data.train_labels[kept]).min()))


PROTOCOLS: dict[str, Callable[[FeatureSet, str, ProbeSettings], ProbeRecord]] = {
    "frozen": _frozen,
    "stablerep": _stablerep,
    "dinov3-linear": _dinov3_linear,
    "logreg": _logreg,
    "knn": _knn,
    "fewshot": _fewshot,
}
