"""Effective rank of features: how many directions they really use (RankMe, Garrido et al. 2023)."""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

import torch
from jaxtyping import Float
from torch import Tensor


def effective_rank(features: Float[Tensor, "n d"]) -> float:
    """exp of the entropy of the singular values, scaled to sum to one: 1 (collapsed) .. min(n, d).

    0 for features that are all zero, nan for features that are not finite.
    """
    matrix = features.detach().to("cpu", torch.float64)
    if not matrix.isfinite().all():
        return float("nan")
    values = torch.linalg.svdvals(matrix)
    if not values.any():
        return 0.0
    shares = values / values.sum()
    return float(torch.special.entr(shares).sum().exp())
