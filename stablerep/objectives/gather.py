"""Rows of every rank in rank order; each row's gradient from all ranks flows back to its owner."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor


def world_size() -> int:
    """The number of processes that train together; 1 outside torch.distributed."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """This process' number among them, from 0."""
    return dist.get_rank() if world_size() > 1 else 0


def all_gather(rows: Tensor) -> Tensor:
    """`rows` [n ...] of all ranks as [world*n ...], without gradient; n must be the same everywhere."""
    if world_size() == 1:
        return rows.detach()
    parts = [torch.empty_like(rows, memory_format=torch.contiguous_format) for _ in range(world_size())]
    dist.all_gather(parts, rows.detach().contiguous())
    return torch.cat(parts)


def all_gather_with_gradient(rows: Tensor) -> Tensor:
    """As `all_gather`; its gradient is the sum over the ranks of what each of them derived for a row.

    Where every rank derives its own mean loss and gradients are then averaged over ranks (as
    DistributedDataParallel does), the outcome is the exact gradient of the mean over all rows.
    """
    return rows if world_size() == 1 else _AllGather.apply(rows)


class _AllGather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor) -> Tensor:
        ctx.local = len(rows)
        return all_gather(rows)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        dist.all_reduce(total)
        start = rank() * ctx.local
        return total[start : start + ctx.local]
