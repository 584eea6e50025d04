"""A probe: the rows of a results table, each measured with the same split, draws and grid.

The strength of every classifier is chosen on a validation split of the training photographs; the test
photographs are used once for each number.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stablerep.errors import InvalidInput
from stablerep.evaluation.datasets.photographs import Photographs
from stablerep.evaluation.feature_sets import FeatureSet
from stablerep.evaluation.features import Encoder, augmented_features
from stablerep.evaluation.probes.few_shot import few_shot
from stablerep.evaluation.probes.knn import knn_accuracy
from stablerep.evaluation.probes.linear import linear_probe
from stablerep.evaluation.probes.linear_sgd import PaperLinearResult, paper_linear_probe
from stablerep.evaluation.split import draw_few, split_validation


@dataclass(frozen=True)
class ProbeResult:
    """One row: top-1 accuracies on the test photographs, 0 to 1, and what was chosen on the way.

    `few` is the mean over draws of `few_labels` photographs a class, `few_draws` each draw's accuracy.
    """

    linear: float
    few: float
    knn: float
    strength: float
    validation: float
    few_labels: int
    few_strength: float
    few_draws: tuple[float, ...]
    dimensions: int
    train_photographs: int
    test_photographs: int
    seconds: float


def probe_model(
    encoder: Encoder,
    data: Photographs,
    *,
    seed: int = 0,
    few_labels: int = 10,
    draws: int = 20,
    neighbours: int = 20,
    batch: int = 250,
    features: FeatureSet | None = None,
) -> ProbeResult:
    """Probes an encoder, or "pixels". The seed decides split and draws, never which encoder it is.

    `few_labels` a class in each of `draws`; `neighbours` vote; `batch` photographs are encoded at once;
    `features` are those of this encoder and data, where they are known.
    """
    started = time.perf_counter()
    train, test = (features or FeatureSet(encoder, data, batch)).of()
    labels, test_labels = torch.from_numpy(data.train_labels), torch.from_numpy(data.test_labels)
    split = split_validation(data.train_labels, seed=seed)
    few_rows = draw_few(data.train_labels, split.train, each=few_labels, draws=draws, seed=seed)
    validation = torch.from_numpy(split.validation)
    fitted = torch.from_numpy(split.train)
    linear = linear_probe(
        train[fitted], labels[fitted], train[validation], labels[validation], test, test_labels
    )
    few = few_shot(
        train[fitted],
        labels[fitted],
        torch.from_numpy(np.searchsorted(split.train, few_rows)),
        train[validation],
        labels[validation],
        test,
        test_labels,
    )
    # Cosines between features that are all positive say little; centred, raw pixels gain 3 points.
    centre = train.mean(dim=0)
    knn = knn_accuracy(train - centre, labels, test - centre, test_labels, neighbours=neighbours)
    return ProbeResult(
        linear=linear.accuracy,
        few=few.accuracy,
        knn=knn,
        strength=linear.strength,
        validation=linear.validation_accuracy,
        few_labels=few_labels,
        few_strength=few.strength,
        few_draws=few.accuracies,
        dimensions=train.shape[1],
        train_photographs=len(train),
        test_photographs=len(test),
        seconds=time.perf_counter() - started,
    )


def probe_table(
    rows: Mapping[str, Encoder], data: Photographs, *, seed: int = 0, few_labels: int = 10, draws: int = 20
) -> dict[str, ProbeResult]:
    """Probes every row with the same split and draws."""
    return {
        name: probe_model(encoder, data, seed=seed, few_labels=few_labels, draws=draws)
        for name, encoder in rows.items()
    }


def paper_probe(
    encoder: Encoder,
    data: Photographs,
    *,
    augment: bool = False,
    epochs: int = 90,
    seed: int = 0,
    features: FeatureSet | None = None,
) -> PaperLinearResult:
    """The paper's probe: SGD heads over a grid of rates, with and without batch norm.

    With `augment` the encoder sees new crops in every epoch, as in the paper: `epochs` times the work. Raises
    InvalidInput when that is asked of pixels.
    """
    train, test = (features or FeatureSet(encoder, data)).of()
    split = split_validation(data.train_labels, seed=seed)
    if augment and isinstance(encoder, str):
        raise InvalidInput("pixels are probed without augmentation", field="augment")
    images = data.framed().train_images

    def epoch_features(epoch: int) -> Tensor:
        if not augment or isinstance(encoder, str):
            return train
        return augmented_features(encoder, images, seed=seed * 1_000_003 + epoch)

    return paper_linear_probe(
        epoch_features,
        torch.from_numpy(data.train_labels),
        torch.from_numpy(split.train),
        torch.from_numpy(split.validation),
        train,
        test,
        torch.from_numpy(data.test_labels),
        epochs=epochs,
        seed=seed,
    )


def format_table(results: Mapping[str, ProbeResult]) -> str:
    """The rows as text, in per cent; the deviation is over the few-shot draws."""
    few_labels = next(iter(results.values())).few_labels
    width = max(map(len, results))
    lines = [f"{'':{width}}  all labels  {few_labels} a class      kNN         C"]
    lines += [
        f"{name:{width}}  {row.linear * 100:10.1f}  {row.few * 100:5.1f} ± {np.std(row.few_draws) * 100:3.1f}"
        f"  {row.knn * 100:7.1f}  {row.strength:8.2g}"
        for name, row in results.items()
    ]
    return "\n".join(lines)
