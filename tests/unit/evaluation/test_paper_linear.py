"""The paper's probe against torch's own layers, optimiser and schedule; its head chosen on validation."""

import math

import pytest
import torch
from torch import Tensor, nn

from stablerep.evaluation.probes.linear_sgd import (
    RATES,
    epoch_batches,
    initial_weights,
    paper_linear_probe,
    train_heads,
)

CLASSES, WIDTH = 4, 6


def blobs(count: int, seed: int) -> tuple[Tensor, Tensor]:
    random = torch.Generator().manual_seed(seed)
    centres = torch.randn(CLASSES, WIDTH, generator=torch.Generator().manual_seed(99))
    labels = torch.arange(count) % CLASSES
    return centres[labels] * 3 + torch.randn(count, WIDTH, generator=random) + 5, labels


def torch_head(
    features: Tensor, labels: Tensor, rate: float, batch_norm: bool, place: tuple[int, int]
) -> nn.Module:
    """One head trained by torch: 3 epochs of batches of 32, from the same weights and in the same order."""
    random = torch.Generator().manual_seed(7)
    weights = initial_weights(2, 2, CLASSES, WIDTH, random)[place]
    linear = nn.Linear(WIDTH, CLASSES)
    with torch.no_grad():
        linear.weight.copy_(weights)
        linear.bias.zero_()
    head = nn.Sequential(nn.BatchNorm1d(WIDTH, affine=False, eps=1e-6), linear) if batch_norm else linear
    head.train()
    optimiser = torch.optim.SGD(head.parameters(), lr=rate * 32 / 256, momentum=0.9, weight_decay=0)
    steps = 3 * (len(labels) // 32)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: (1 + math.cos(math.pi * step / steps)) / 2
    )
    for _ in range(3):
        for chosen in epoch_batches(len(labels), 32, random):
            optimiser.zero_grad()
            nn.functional.cross_entropy(head(features[chosen]), labels[chosen]).backward()
            optimiser.step()
            schedule.step()
    return head.eval()


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("rate_at", [0, 1])
def test_heads_trained_at_once_are_those_that_torch_trains_one_by_one(batch_norm: bool, rate_at: int) -> None:
    features, labels = blobs(150, seed=0)
    rates = (0.02, 0.5)
    heads = train_heads(
        lambda _: features,
        labels,
        rates=rates,
        batch_norms=(False, True),
        classes=CLASSES,
        epochs=3,
        batch=32,
        seed=7,
    )
    place = (int(batch_norm), rate_at)
    expected = torch_head(features, labels, rates[rate_at], batch_norm, place)
    linear = expected[1] if isinstance(expected, nn.Sequential) else expected
    assert isinstance(linear, nn.Linear)
    torch.testing.assert_close(heads.weights[place], linear.weight.detach(), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(heads.biases[place], linear.bias.detach(), atol=1e-5, rtol=1e-4)
    other, other_labels = blobs(400, seed=1)
    accuracy = (expected(other).argmax(1) == other_labels).double().mean()
    assert float(heads.accuracies(other, other_labels)[place]) == pytest.approx(float(accuracy), abs=0.003)


def probe(test_labels: Tensor) -> tuple[float, float, bool]:
    features, labels = blobs(200, seed=2)
    result = paper_linear_probe(
        lambda _: features,
        labels,
        torch.arange(160),
        torch.arange(160, 200),
        features,
        features,
        test_labels,
        epochs=4,
        batch=32,
    )
    best = max(map(max, result.validation))
    assert result.validation[int(result.batch_norm)][RATES.index(result.rate)] == best
    return result.accuracy, result.rate, result.batch_norm


def test_head_is_the_best_on_validation_whatever_the_test_labels_are() -> None:
    labels = torch.arange(200) % CLASSES
    accuracy, rate, batch_norm = probe(labels)
    wrong_accuracy, wrong_rate, wrong_batch_norm = probe((labels + 1) % CLASSES)
    assert (rate, batch_norm) == (wrong_rate, wrong_batch_norm)
    assert accuracy > 0.8
    assert wrong_accuracy < 0.2


def test_every_epoch_asks_for_its_own_features() -> None:
    features, labels = blobs(64, seed=3)
    asked = []

    def epoch_features(epoch: int) -> Tensor:
        asked.append(epoch)
        return features

    train_heads(
        epoch_features,
        labels,
        rates=(0.1,),
        batch_norms=(True,),
        classes=CLASSES,
        epochs=3,
        batch=32,
        seed=0,
    )
    assert asked == [0, 1, 2]
