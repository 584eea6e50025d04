"""Metrics of the transfer tables, from class scores: top-1, mean per class, 11-point mAP."""

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

MetricName = Literal["top1", "mean-per-class", "map11"]
Metric = Callable[[Tensor, Tensor], Tensor]
"""Scores [... k n] and the labels of n photographs to values [...], 0 to 1."""


def top_1(scores: Tensor, labels: Tensor) -> Tensor:
    """The share of photographs, labels [n], whose class has the highest score."""
    return (scores.argmax(dim=-2) == labels).double().mean(dim=-1)


def mean_per_class(scores: Tensor, labels: Tensor) -> Tensor:
    """The mean over the classes that occur of the share of each that is recognised."""
    right = (scores.argmax(dim=-2) == labels).double()
    return torch.stack([right[..., labels == label].mean(dim=-1) for label in labels.unique()]).mean(dim=0)


def map_11_points(scores: Tensor, labels: Tensor) -> Tensor:
    """Mean over classes of PASCAL VOC 2007's average precision, labels [k n] of 0 and 1.

    The mean, over recalls of 0, 0.1, ... 1, of the best precision at that recall or a higher one. A class
    that does not occur does not count.
    """
    order = scores.argsort(dim=-1, descending=True, stable=True)
    found = labels.expand(scores.shape).gather(-1, order).double()
    hits = found.cumsum(dim=-1)
    total = found.sum(dim=-1, keepdim=True)
    precision = hits / torch.arange(1, scores.shape[-1] + 1, dtype=torch.float64)
    recall = hits / total.clamp(min=1)
    points = [
        torch.where(recall >= least - 1e-12, precision, 0.0).amax(dim=-1)
        for least in torch.linspace(0, 1, 11, dtype=torch.float64).tolist()
    ]
    average = torch.stack(points).mean(dim=0)
    occurs = total[..., 0] > 0
    return (average * occurs).sum(dim=-1) / occurs.sum(dim=-1).clamp(min=1)


METRICS: dict[MetricName, Metric] = {
    "top1": top_1,
    "mean-per-class": mean_per_class,
    "map11": map_11_points,
}
