"""Targets over prototypes, balanced by Sinkhorn and Knopp, and the cross entropy to them (iBOT, SynCLR)."""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from stablerep.objectives.gather import world_size


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "n prototypes"], *, temperature: float | Tensor, iterations: int = 3
) -> Float[Tensor, "n prototypes"]:
    """Probabilities of each row over prototypes that use all prototypes alike (Caron et al. 2020).

    Rows of all ranks are balanced together; ranks may have different numbers of rows. In float32 or float64.
    """
    exact = scores.double() if scores.dtype == torch.float64 else scores.float()
    scaled = exact / temperature
    plan = (scaled - _highest(scaled)).exp()
    total, rows = _sum(plan.sum()), _sum(plan.new_full((), float(len(plan))))
    plan = plan / total
    for _ in range(iterations):
        plan = plan / _sum(plan.sum(0, keepdim=True)) / plan.shape[1]
        plan = plan / plan.sum(1, keepdim=True) / rows
    return plan * rows


def prototype_loss(
    student: Float[Tensor, "n prototypes"], targets: Float[Tensor, "n prototypes"], *, temperature: float
) -> Float[Tensor, " n"]:
    """The cross entropy of every row, in float32 (float64 stays float64)."""
    with torch.autocast(student.device.type, enabled=False):
        exact = student if student.dtype == torch.float64 else student.float()
        return -(targets.to(exact.dtype) * (exact / temperature).log_softmax(1)).sum(1)


def _sum(value: Tensor) -> Tensor:
    if world_size() > 1:
        dist.all_reduce(value)
    return value


def _highest(scores: Tensor) -> Tensor:
    """The largest score on any rank: no exponential overflows, and it cancels."""
    highest = scores.max() if len(scores) else scores.new_full((), -torch.inf)
    if world_size() > 1:
        dist.all_reduce(highest, op=dist.ReduceOp.MAX)
    return highest
