"""The linear probe: logistic regression on standardised features, its strength chosen on a validation split.

The protocol of the fine-grained transfer tables (Kornblith et al. 2019; StableRep, section 4): choose C on
the validation split, fit again on train and validation together, test once.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor

from stablerep.evaluation.metrics import Metric, map_11_points, top_1
from stablerep.evaluation.probes.logistic import fit_logistic

STRENGTHS = torch.logspace(-5, 2, 15)
BLOCK = 5
CHOICE_TOLERANCE = 1e-5
FINAL_TOLERANCE = 1e-6


@dataclass(frozen=True)
class LinearResult:
    """The metric on the test set (0 to 1), the chosen C, its metric on validation, test scores [k n]."""

    accuracy: float
    strength: float
    validation_accuracy: float
    scores: Tensor = field(repr=False, compare=False)


@dataclass(frozen=True)
class Standardiser:
    """Brings every dimension to mean 0 and deviation 1 over the features it was made from, [... n d]."""

    mean: Tensor
    std: Tensor

    @classmethod
    def of(cls, features: Tensor) -> "Standardiser":
        """From features [... n d]; a dimension that does not vary is only centred."""
        mean, std = features.mean(dim=-2, keepdim=True), features.std(dim=-2, correction=0, keepdim=True)
        constant = std <= 1e-6 * std.amax(dim=-1, keepdim=True)
        return cls(mean, torch.where(constant, torch.ones_like(std), std))

    def __call__(self, features: Tensor) -> Tensor:
        return (features - self.mean) / self.std


def linear_probe(
    features: Tensor,
    labels: Tensor,
    validation_features: Tensor,
    validation_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    strengths: Tensor = STRENGTHS,
    metric: Metric = top_1,
) -> LinearResult:
    """Probes features [n d] with class numbers [n]; the test set is looked at once, at the end.

    `metric` judges, on validation and on the test set.
    """
    classes = int(labels.max()) + 1
    standardise = Standardiser.of(features)
    strength, validation_accuracy = choose_strength(
        standardise(features),
        labels,
        standardise(validation_features),
        validation_labels,
        strengths=strengths,
        classes=classes,
        metric=metric,
    )
    together = torch.cat([features, validation_features])
    standardise = Standardiser.of(together)
    final = fit_logistic(
        standardise(together)[None],
        torch.cat([labels, validation_labels])[None],
        torch.tensor([strength]),
        classes=classes,
        tolerance=FINAL_TOLERANCE,
    )
    scores = final.logits(standardise(test_features))[0, 0]
    return LinearResult(float(metric(scores, test_labels)), strength, validation_accuracy, scores)


def multi_label_probe(
    features: Tensor,
    labels: Tensor,
    validation_features: Tensor,
    validation_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    strengths: Tensor = STRENGTHS,
    metric: Metric = map_11_points,
) -> LinearResult:
    """A classifier for each of k classes by itself, labels [n k] of 0 and 1; one strength for all of them."""
    standardise = Standardiser.of(features)
    inputs, asked = standardise(features), standardise(validation_features)
    values: list[float] = []
    for start in range(0, len(strengths), BLOCK):
        scores = _scores_by_class(inputs, labels, strengths[start : start + BLOCK], asked)
        values += metric(scores, validation_labels.T).tolist()
        best = values.index(max(values))
        if best < len(values) - BLOCK:
            break
    together, everything = torch.cat([features, validation_features]), torch.cat([labels, validation_labels])
    standardise = Standardiser.of(together)
    chosen = strengths[best : best + 1]
    final = _scores_by_class(standardise(together), everything, chosen, standardise(test_features))[0]
    return LinearResult(float(metric(final, test_labels.T)), float(chosen), values[best], final)


def _scores_by_class(inputs: Tensor, labels: Tensor, strengths: Tensor, asked: Tensor) -> Tensor:
    """How much more likely each of k classes is than not, [g k m], of m features asked about."""
    scores = torch.zeros(len(strengths), labels.shape[1], len(asked), dtype=inputs.dtype)
    varying = torch.nonzero(labels.min(dim=0).values < labels.max(dim=0).values)[:, 0]
    if len(varying):  # of a class that all have, or none, nothing can be learnt
        repeated = inputs.expand(len(varying), -1, -1)
        columns = labels.T[varying]
        models = fit_logistic(repeated, columns, strengths, classes=2, tolerance=CHOICE_TOLERANCE)
        no, yes = models.logits(asked).unbind(dim=2)
        scores[:, varying] = (yes - no).transpose(0, 1)
    return scores


def choose_strength(
    features: Tensor,
    labels: Tensor,
    validation_features: Tensor,
    validation_labels: Tensor,
    *,
    strengths: Tensor,
    classes: int,
    metric: Metric = top_1,
) -> tuple[float, float]:
    """The C of ascending `strengths` that does best on validation, the smaller of equals, and its accuracy.

    The grid is walked up in blocks that are fitted at once. Each step up costs more iterations, so the walk
    ends where over-fitting has set in: when two larger C stand behind both the best accuracy and the lowest
    loss. Accuracy alone would not do, as it may stay level for decades before it rises.
    """
    accuracies: list[float] = []
    losses: list[float] = []
    for start in range(0, len(strengths), BLOCK):
        block = strengths[start : start + BLOCK]
        models = fit_logistic(
            features[None], labels[None], block, classes=classes, tolerance=CHOICE_TOLERANCE
        )
        accuracies += metric(models.logits(validation_features), validation_labels)[0].tolist()
        losses += models.losses(validation_features, validation_labels)[0].tolist()
        best = accuracies.index(max(accuracies))
        if max(best, losses.index(min(losses))) < len(accuracies) - 2:
            break
    return float(strengths[best]), accuracies[best]
