"""Weighted nearest neighbours against a loop over every pair."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from stablerep.evaluation.probes.knn import knn_accuracy, knn_predictions


def brute_force(features: np.ndarray, labels: np.ndarray, query: np.ndarray, k: int, t: float) -> int:
    cosines = [float(np.dot(row, query) / (np.linalg.norm(row) * np.linalg.norm(query))) for row in features]
    votes: dict[int, float] = {}
    for at in sorted(range(len(cosines)), key=lambda at: -cosines[at])[:k]:
        votes[int(labels[at])] = votes.get(int(labels[at]), 0) + math.exp(cosines[at] / t)
    return max(votes, key=lambda label: votes[label])


@pytest.fixture
def data() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    return (
        torch.randn(120, 6, generator=random, dtype=torch.float64),
        torch.randint(0, 5, (120,), generator=random),
        torch.randn(70, 6, generator=random, dtype=torch.float64),
    )


@pytest.mark.parametrize(("neighbours", "temperature"), [(1, 0.07), (20, 0.07), (20, 10.0), (500, 0.07)])
def test_predictions_are_those_of_a_loop_over_every_pair(
    data: tuple[Tensor, Tensor, Tensor], neighbours: int, temperature: float
) -> None:
    features, labels, queries = data
    found = knn_predictions(features, labels, queries, neighbours=neighbours, temperature=temperature)
    expected = [
        brute_force(features.numpy(), labels.numpy(), query, neighbours, temperature)
        for query in queries.numpy()
    ]
    assert found.tolist() == expected


def test_chunks_do_not_change_predictions(data: tuple[Tensor, Tensor, Tensor]) -> None:
    whole = knn_predictions(*data, chunk=1000)
    assert torch.equal(whole, knn_predictions(*data, chunk=7))


def test_length_of_features_does_not_matter(data: tuple[Tensor, Tensor, Tensor]) -> None:
    features, labels, queries = data
    lengths = torch.rand(120, 1, dtype=torch.float64) + 0.1
    assert torch.equal(
        knn_predictions(features, labels, queries),
        knn_predictions(features * lengths, labels, queries * 1000),
    )


def test_a_low_temperature_follows_the_nearest_neighbour_without_overflow(
    data: tuple[Tensor, Tensor, Tensor],
) -> None:
    features, labels, queries = data
    nearest = knn_predictions(features, labels, queries, neighbours=1)
    assert torch.equal(nearest, knn_predictions(features, labels, queries, temperature=1e-5))


def test_accuracy_is_the_share_of_right_predictions(data: tuple[Tensor, Tensor, Tensor]) -> None:
    features, labels, queries = data
    truth = knn_predictions(features, labels, queries)
    truth[:7] = (truth[:7] + 1) % 5
    assert knn_accuracy(features, labels, queries, truth) == pytest.approx(63 / 70)
