"""The linear probe of the StableRep paper: SGD heads over a grid of rates, all at once on the same features.

As in its `main_linear.py` (and SynCLR, table 13): rates scaled by batch / 256, momentum 0.9, no weight decay,
no warm-up, a cosine to 0 by the step, heads drawn from N(0, 0.01); with and without a batch norm that has no
parameters in front. Unlike there, the head is chosen on a validation split and not on the test set.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from stablerep.errors import InvalidInput

RATES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.5)
MOMENTUM = 0.9
NORM_EPSILON = 1e-6
NORM_MOMENTUM = 0.1

EpochFeatures = Callable[[int], Tensor]  # epoch -> features [n d]; new augmentations each epoch, or the same


@dataclass(frozen=True)
class PaperLinearResult:
    """Test accuracy (0 to 1) of the head chosen on validation; every head's `validation` [norm][rate]."""

    accuracy: float
    rate: float
    batch_norm: bool
    validation: tuple[tuple[float, ...], ...]


@dataclass(frozen=True)
class Heads:
    """Linear heads behind b input norms, r rates each: weights [b r k d], biases [b r k], norms [b d]."""

    weights: Tensor
    biases: Tensor
    means: Tensor
    deviations: Tensor

    def accuracies(self, features: Tensor, labels: Tensor) -> Tensor:
        """Top-1 accuracies [b r], 0 to 1, of features [n d] with class numbers [n]."""
        inputs = (features - self.means[:, None]) / self.deviations[:, None]
        scores = torch.bmm(self.weights.flatten(1, 2), inputs.transpose(1, 2))
        scores = scores.unflatten(1, self.weights.shape[1:3]) + self.biases[..., None]
        return (scores.argmax(dim=2) == labels).double().mean(dim=2)


def paper_linear_probe(
    epoch_features: EpochFeatures,
    labels: Tensor,
    train: Tensor,
    validation: Tensor,
    features: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    rates: Sequence[float] = RATES,
    batch_norms: Sequence[bool] = (False, True),
    epochs: int = 90,
    batch: int = 256,
    seed: int = 0,
) -> PaperLinearResult:
    """Trains every head on `train`, chooses on `validation`, trains the chosen one on both, tests it once.

    Args:
        epoch_features: the features to train on in an epoch, [n d]; augmented or not.
        labels: class numbers [n].
        train, validation: indices into the n photographs.
        features: features of the n photographs without augmentation, [n d]; validation looks at these.
    """
    classes = int(labels.max()) + 1
    heads = train_heads(
        lambda epoch: epoch_features(epoch)[train],
        labels[train],
        rates=rates,
        batch_norms=batch_norms,
        classes=classes,
        epochs=epochs,
        batch=batch,
        seed=seed,
    )
    accuracies = heads.accuracies(features[validation], labels[validation])
    norm, rate = divmod(int(accuracies.argmax()), len(rates))
    batch_norm = batch_norms[norm]
    final = train_heads(
        epoch_features,
        labels,
        rates=(rates[rate],),
        batch_norms=(batch_norm,),
        classes=classes,
        epochs=epochs,
        batch=batch,
        seed=seed,
    )
    accuracy = float(final.accuracies(test_features, test_labels))
    return PaperLinearResult(accuracy, rates[rate], batch_norm, tuple(map(tuple, accuracies.tolist())))


def train_heads(
    epoch_features: EpochFeatures,
    labels: Tensor,
    *,
    rates: Sequence[float],
    batch_norms: Sequence[bool],
    classes: int,
    epochs: int,
    batch: int,
    seed: int,
) -> Heads:
    """Heads for every choice of input norm and rate, trained side by side on the same batches."""
    if epochs < 1 or batch < 1:
        raise InvalidInput(f"{epochs} epochs of batches of {batch} train nothing", field="epochs")
    random = torch.Generator().manual_seed(seed)
    features = epoch_features(0)
    weights = initial_weights(len(batch_norms), len(rates), classes, features.shape[1], random)
    biases = torch.zeros(weights.shape[:3])
    weight_speed, bias_speed = torch.zeros_like(weights), torch.zeros_like(biases)
    norms = _InputNorms(batch_norms, features.shape[1])
    targets = one_hot(labels, classes).T.float()
    batch = min(batch, len(labels))
    steps_per_epoch = len(labels) // batch
    for epoch in range(epochs):
        features = epoch_features(epoch) if epoch else features
        for step, chosen in enumerate(epoch_batches(len(labels), batch, random)):
            inputs = norms.train(features[chosen])
            scores = torch.bmm(weights.flatten(1, 2), inputs.transpose(1, 2))
            scores = scores.unflatten(1, weights.shape[1:3]) + biases[..., None]
            errors = (scores.softmax(dim=2) - targets[:, chosen]) / batch
            gradient = torch.bmm(errors.flatten(1, 2), inputs).view_as(weights)
            weight_speed.mul_(MOMENTUM).add_(gradient)
            bias_speed.mul_(MOMENTUM).add_(errors.sum(dim=3))
            done = (epoch * steps_per_epoch + step) / (epochs * steps_per_epoch)
            scale = batch / 256 * (1 + math.cos(math.pi * done)) / 2
            sizes = torch.tensor(rates)[:, None] * scale
            weights -= sizes[..., None] * weight_speed
            biases -= sizes * bias_speed
    return Heads(weights, biases, norms.means, (norms.variances + norms.epsilons).sqrt())


def initial_weights(norms: int, rates: int, classes: int, width: int, random: torch.Generator) -> Tensor:
    """Weights [norms rates classes width] from N(0, 0.01)."""
    return torch.randn(norms, rates, classes, width, generator=random) * 0.01


def epoch_batches(count: int, batch: int, random: torch.Generator) -> Sequence[Tensor]:
    """One epoch's whole batches of indices; what does not fill a batch sits the epoch out."""
    order = torch.randperm(count, generator=random)
    return order[: count // batch * batch].split(batch)


class _InputNorms:
    """Batch norm without parameters where asked for, the identity elsewhere; running statistics [b d]."""

    def __init__(self, batch_norms: Sequence[bool], width: int) -> None:
        self.active = torch.tensor(batch_norms)[:, None].expand(-1, width)
        self.means = torch.zeros(self.active.shape)
        self.variances = torch.ones(self.active.shape)
        self.epsilons = self.active * NORM_EPSILON

    def train(self, inputs: Tensor) -> Tensor:
        """Inputs [n d] by the batch's own statistics, [b n d]; moves the running ones."""
        variance, mean = torch.var_mean(inputs, dim=0, correction=0)
        unbiased = variance * (len(inputs) / max(len(inputs) - 1, 1))
        self.means = torch.where(self.active, self.means.lerp(mean, NORM_MOMENTUM), self.means)
        moved = self.variances.lerp(unbiased, NORM_MOMENTUM)
        self.variances = torch.where(self.active, moved, self.variances)
        normalised = (inputs - mean) / (variance + NORM_EPSILON).sqrt()
        return torch.where(self.active[:, None], normalised, inputs)
