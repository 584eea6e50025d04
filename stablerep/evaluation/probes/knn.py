"""Weighted k nearest neighbours on frozen features (Wu et al. 2018, with DINO's k and temperature)."""

import torch
from torch import Tensor
from torch.nn.functional import normalize, one_hot


def knn_predictions(
    features: Tensor,
    labels: Tensor,
    queries: Tensor,
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
    chunk: int = 1000,
) -> Tensor:
    """Class numbers [m] of queries [m d]: the nearest features [n d] by cosine vote with exp(cosine / T).

    Queries go through in chunks, so that memory is chunk x n and not m x n.
    """
    directions = normalize(features, dim=1)
    classes = int(labels.max()) + 1
    predictions = []
    for part in queries.split(chunk):
        similarities, nearest = (normalize(part, dim=1) @ directions.T).topk(
            min(neighbours, len(features)), dim=1
        )
        # Only ratios of weights matter; less the largest cosine, no temperature overflows.
        weights = ((similarities - similarities[:, :1]) / temperature).exp()
        votes = (weights[:, :, None] * one_hot(labels[nearest], classes)).sum(dim=1)
        predictions.append(votes.argmax(dim=1))
    return torch.cat(predictions)


def knn_accuracy(
    features: Tensor,
    labels: Tensor,
    test_features: Tensor,
    test_labels: Tensor,
    *,
    neighbours: int = 20,
    temperature: float = 0.07,
) -> float:
    """Share (0 to 1) of test features [m d] whose weighted neighbours among [n d] name their class."""
    predictions = knn_predictions(
        features, labels, test_features, neighbours=neighbours, temperature=temperature
    )
    return float((predictions == test_labels).double().mean())
