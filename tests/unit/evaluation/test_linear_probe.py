"""The linear probe against scikit-learn: same minimum, same accuracy; its test set is used once."""

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from torch import Tensor

from stablerep.evaluation.datasets.photographs import load_photographs
from stablerep.evaluation.features import extract_features
from stablerep.evaluation.probes.linear import Standardiser, choose_strength, linear_probe
from stablerep.evaluation.probes.logistic import fit_logistic, objective


@pytest.fixture(scope="module")
def pixels() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Standardised pixels of 800 training and 1,000 test photographs, with their labels."""
    data = load_photographs("fashion").subset(train=800, test=1000)
    train, test = extract_features("pixels", data.train_images), extract_features("pixels", data.test_images)
    standardise = Standardiser.of(train)
    return (
        standardise(train),
        torch.from_numpy(data.train_labels),
        standardise(test),
        torch.from_numpy(data.test_labels),
    )


def blobs(count: int, dimensions: int, seed: int, classes: int = 4) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, dimensions, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % classes
    scales = torch.logspace(-1, 1, dimensions)
    return (centres[labels] + 2 * torch.randn(count, dimensions, generator=random)) * scales, labels


def reference(features: Tensor, labels: Tensor, strength: float) -> LogisticRegression:
    return LogisticRegression(C=strength, tol=1e-8, max_iter=5000).fit(
        features.double().numpy(), labels.numpy()
    )


@pytest.mark.parametrize("strength", [1e-3, 1e-2, 1e-1])
def test_pixels_reach_the_minimum_and_accuracy_of_scikit_learn(
    pixels: tuple[Tensor, Tensor, Tensor, Tensor], strength: float
) -> None:
    train, labels, test, test_labels = pixels
    ours = fit_logistic(train[None], labels[None], torch.tensor([strength]), classes=10, tolerance=1e-6)
    theirs = LogisticRegression(C=strength, tol=1e-5, max_iter=3000).fit(train.numpy(), labels.numpy())
    minimum = objective(
        train, labels, torch.from_numpy(theirs.coef_), torch.from_numpy(theirs.intercept_), strength
    )
    found = objective(train, labels, ours.weights[0, 0], ours.intercepts[0, 0], strength)
    assert found == pytest.approx(minimum, rel=1e-4)
    accuracy = theirs.score(test.numpy(), test_labels.numpy())
    assert float(ours.accuracies(test, test_labels)) == pytest.approx(accuracy, abs=0.002)


@pytest.mark.parametrize(("count", "dimensions"), [(200, 12), (24, 60)])
def test_float64_coefficients_are_those_of_scikit_learn(count: int, dimensions: int) -> None:
    features, labels = blobs(count, dimensions, seed=1)
    features = features.double()
    strengths = torch.tensor([1e-3, 1e-1, 10.0])
    ours = fit_logistic(features[None], labels[None], strengths, classes=4, tolerance=1e-15)
    for at, strength in enumerate(strengths.tolist()):
        theirs = reference(features, labels, strength)
        np.testing.assert_allclose(ours.weights[0, at].numpy(), theirs.coef_, atol=2e-4)
        shift = theirs.intercept_ - ours.intercepts[0, at].numpy()
        np.testing.assert_allclose(shift - shift.mean(), 0, atol=2e-3)


def test_many_training_sets_at_once_are_each_fitted_as_if_alone() -> None:
    features, labels = blobs(90, 20, seed=2)
    sets, set_labels = features.double().view(3, 30, 20), labels.view(3, 30)
    strengths = torch.tensor([1e-2, 1.0])
    together = fit_logistic(sets, set_labels, strengths, classes=4, tolerance=1e-14)
    for at in range(3):
        alone = fit_logistic(
            sets[at : at + 1], set_labels[at : at + 1], strengths[1:], classes=4, tolerance=1e-14
        )
        torch.testing.assert_close(together.weights[at, 1], alone.weights[0, 0], atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(together.intercepts[at, 1], alone.intercepts[0, 0], atol=1e-4, rtol=1e-4)


def test_gradient_of_the_objective_vanishes_at_the_solution() -> None:
    features, labels = blobs(120, 8, seed=3)
    features = features.double()
    fitted = fit_logistic(features[None], labels[None], torch.tensor([0.5]), classes=4, tolerance=1e-15)
    weights = fitted.weights[0, 0].clone().requires_grad_()
    intercepts = fitted.intercepts[0, 0].clone().requires_grad_()
    loss = torch.nn.functional.cross_entropy(features @ weights.T + intercepts, labels, reduction="sum")
    (0.5 * loss + weights.square().sum() / 2).backward()
    assert weights.grad is not None
    assert intercepts.grad is not None
    assert weights.grad.abs().max() < 1e-4
    assert intercepts.grad.abs().max() < 1e-4


def test_strength_is_the_best_on_validation_and_the_smaller_of_equals() -> None:
    features, labels = blobs(80, 40, seed=4)
    validation, validation_labels = blobs(200, 40, seed=5)
    standardise = Standardiser.of(features)
    strengths = torch.logspace(-5, 2, 15)
    chosen, accuracy = choose_strength(
        standardise(features),
        labels,
        standardise(validation),
        validation_labels,
        strengths=strengths,
        classes=4,
    )
    scores = [
        reference(standardise(features), labels, strength).score(
            standardise(validation).numpy(), validation_labels.numpy()
        )
        for strength in strengths.tolist()
    ]
    assert accuracy == pytest.approx(max(scores), abs=0.011)
    assert scores[strengths.tolist().index(chosen)] == pytest.approx(max(scores), abs=0.011)


def test_walk_up_the_grid_goes_on_over_a_plateau_to_a_better_strength() -> None:
    # Two loud dimensions tell most classes apart and a faint one the rest, which only a large C brings out.
    random = torch.Generator().manual_seed(0)
    labels = torch.arange(400) % 3
    features = torch.randn(400, 2, generator=random) * 0.05
    features[:, 0] += (labels > 0).float()
    features[:, 1] += (labels > 0).float() + 0.2 * (labels > 1).float()
    strengths = torch.logspace(-5, 2, 15)
    chosen, accuracy = choose_strength(
        features[:200], labels[:200], features[200:], labels[200:], strengths=strengths, classes=3
    )
    everything = fit_logistic(features[None, :200], labels[None, :200], strengths, classes=3, tolerance=1e-8)
    accuracies = everything.accuracies(features[200:], labels[200:])[0]
    assert accuracies[:5].unique().numel() == 1, "the first block is no plateau"
    assert accuracy == pytest.approx(float(accuracies.max()), abs=0.006)
    assert chosen > 1e-3


def test_losses_are_mean_cross_entropies() -> None:
    features, labels = blobs(60, 10, seed=9)
    fitted = fit_logistic(features.view(2, 30, 10), labels.view(2, 30), torch.tensor([0.1, 1.0]), classes=4)
    scores = features @ fitted.weights[1, 0].T + fitted.intercepts[1, 0]
    expected = torch.nn.functional.cross_entropy(scores, labels)
    assert float(fitted.losses(features, labels)[1, 0]) == pytest.approx(float(expected), rel=1e-5)


def test_test_labels_do_not_influence_the_strength() -> None:
    features, labels = blobs(80, 20, seed=6)
    validation, validation_labels = blobs(80, 20, seed=7)
    test, test_labels = blobs(80, 20, seed=8)
    honest = linear_probe(features, labels, validation, validation_labels, test, test_labels)
    shuffled = linear_probe(features, labels, validation, validation_labels, test, (test_labels + 1) % 4)
    assert honest.strength == shuffled.strength
    assert honest.validation_accuracy == shuffled.validation_accuracy
    assert honest.accuracy > 0.5 > shuffled.accuracy


def test_standardising_uses_the_training_part_and_leaves_constant_dimensions_finite() -> None:
    train = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 7 + 3
    train[:, 1] = 2.5
    standardise = Standardiser.of(train)
    torch.testing.assert_close(standardise(train).mean(0), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(
        standardise(train).std(0, correction=0), torch.tensor([1.0, 0, 1]), atol=1e-5, rtol=0
    )
    moved = standardise(train + 10)
    torch.testing.assert_close(moved.mean(0), 10 / torch.where(standardise.std > 0, standardise.std, 1)[0])
