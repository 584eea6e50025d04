"""Few labels: a logistic regression on a handful of labelled photographs a class, averaged over draws."""

from dataclasses import dataclass

from torch import Tensor

from stablerep.evaluation.probes.linear import CHOICE_TOLERANCE, STRENGTHS, Standardiser
from stablerep.evaluation.probes.logistic import LogisticModels, fit_logistic


@dataclass(frozen=True)
class FewShotResult:
    """Test accuracy (0 to 1): mean over the draws, and each draw's; the C that all draws share."""

    accuracy: float
    accuracies: tuple[float, ...]
    strength: float


def few_shot(
    features: Tensor,
    labels: Tensor,
    draws: Tensor,
    validation_features: Tensor,
    validation_labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    strengths: Tensor = STRENGTHS,
) -> FewShotResult:
    """Fits every draw (indices [t n] into features [N d]) and tests it once.

    Each draw is standardised by all training features, which takes no labels. One C is chosen for all
    draws, the best on validation photographs on average: a single draw's best would be mostly chance.
    """
    standardise = Standardiser.of(features)
    models = fit_logistic(
        standardise(features)[draws],
        labels[draws],
        strengths,
        classes=int(labels.max()) + 1,
        tolerance=CHOICE_TOLERANCE,
    )
    on_validation = models.accuracies(standardise(validation_features), validation_labels).mean(dim=0)
    best = int(on_validation.argmax())
    chosen = LogisticModels(
        models.weights[:, best : best + 1], models.intercepts[:, best : best + 1], models.iterations
    )
    accuracies = chosen.accuracies(standardise(test_features), test_labels)[:, 0]
    return FewShotResult(float(accuracies.mean()), tuple(accuracies.tolist()), float(strengths[best]))
