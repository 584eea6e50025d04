"""Multi-positive contrastive loss (StableRep, Tian et al. 2023, eq. 1-3), computed in row chunks.

With unit-norm rows z and the rows that share row i's label as its positives P(i), the cross entropy between
"uniform over P(i)" and the softmax over all other rows is

    L_i = logsumexp_{j != i} z_i.z_j / t  -  mean_{p in P(i)} z_i.z_p / t

The second term needs only one sum of embeddings a label, so no mask is built; the first is computed for a few
rows at a time, together with its gradient, so no [n N] matrix outlives its chunk. SimCLR's NT-Xent is the
same loss with two views a label.
"""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from stablerep.errors import InvalidInput
from stablerep.objectives.gather import all_gather, all_gather_with_gradient, rank

# Logits held at once. On a CPU 16 MiB of them stay near the caches; on a GPU larger products run better.
_CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**26}


def multi_positive_loss(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    temperature: float = 0.1,
    instances: Int[Tensor, " n"] | None = None,
    rows_per_chunk: int | None = None,
) -> Float[Tensor, ""]:
    """The mean over this rank's n rows of the cross entropy to their positives, among all ranks' rows.

    Rows are normalised here, in float32 (float64 stays float64). Rows with equal labels are positives of each
    other, on whichever rank they are; a row is no candidate of its own. A row without positives contributes
    0 and counts in the mean. Never below ln(positives a row); ln(N - 1) for unrelated embeddings. With
    `instances`, rows are positives only where these are equal too, and rows of one label but another instance
    are left out: neither positives nor candidates.

    Under torch.distributed every rank must pass the same number of rows; averaging the ranks' gradients gives
    the gradient of the mean over all rows. `rows_per_chunk` bounds memory: rows_per_chunk x N values are held
    at once. Raises InvalidInput on shapes that do not fit or a temperature that is not positive.
    """
    if embeddings.ndim != 2 or labels.shape != embeddings.shape[:1] or not len(labels):
        message = f"want [n d] and [n], n > 0, got {list(embeddings.shape)} and {list(labels.shape)}"
        raise InvalidInput(message, field="embeddings, labels")
    if temperature <= 0:
        raise InvalidInput(f"must be above 0, is {temperature}", field="temperature")
    with torch.autocast(embeddings.device.type, enabled=False):
        exact = embeddings if embeddings.dtype == torch.float64 else embeddings.float()
        rows = F.normalize(exact, dim=1)
        candidates = all_gather_with_gradient(rows)
        _, label = torch.unique(all_gather(labels), return_inverse=True)
        group = label
        if instances is not None:
            pairs = torch.stack([label, all_gather(instances)], dim=1)
            _, group = torch.unique(pairs, dim=0, return_inverse=True)
        group_size = torch.bincount(group)
        first = rank() * len(rows)
        own = group[first : first + len(rows)]

        positives = (group_size - 1)[own]
        weight = (positives > 0).to(rows.dtype) / len(rows)
        group_sum = rows.new_zeros(len(group_size), rows.shape[1]).index_add(0, group, candidates)
        attraction = (rows * (group_sum[own] - rows)).sum(1) / positives.clamp(min=1)

        chunk = rows_per_chunk or _default_chunk(candidates)
        left_out = None if instances is None else (label, group)
        repulsion = _WeightedLogSumExp.apply(rows, candidates, weight, first, temperature, chunk, left_out)
        return repulsion - (weight * attraction).sum() / temperature


def floor_of(rows_of_label: np.ndarray) -> float:
    """The least that the loss can be for rows whose labels have so many rows each: the positives' entropy."""
    return float(np.log(np.maximum(1, rows_of_label - 1)).mean())


def _default_chunk(candidates: Tensor) -> int:
    elements = _CHUNK_ELEMENTS.get(candidates.device.type, _CHUNK_ELEMENTS["cuda"])
    return max(1, elements // len(candidates))


class _WeightedLogSumExp(torch.autograd.Function):
    """sum_i w_i logsumexp_{j != first+i} (rows_i . candidates_j / t), its gradient made in the forward pass.

    `left_out` (label [N], group [N]): candidates of row i's label but another group do not count either.

    The weights are known before the loss is, so a chunk's softmax is used for both gradients while it is
    there: three matrix products a chunk, where recomputation in the backward pass would take four.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        candidates: Tensor,
        weight: Tensor,
        first: int,
        temperature: float,
        chunk: int,
        left_out: tuple[Tensor, Tensor] | None,
    ) -> Tensor:
        wanted = ctx.needs_input_grad[0] or ctx.needs_input_grad[1]
        rows_gradient = torch.empty_like(rows) if wanted else None
        candidates_gradient = torch.zeros_like(candidates) if wanted else None
        total = rows.new_zeros(())
        for start in range(0, len(rows), chunk):
            block = rows[start : start + chunk]
            logits = (block / temperature) @ candidates.T
            # The lowest finite number, not -inf: a single row has no candidate at all, and must give no NaN.
            logits.diagonal(offset=first + start).fill_(torch.finfo(logits.dtype).min)
            if left_out is not None:
                label, group = left_out
                here = slice(first + start, first + start + len(block))
                other = (label[here, None] == label) & (group[here, None] != group)
                logits.masked_fill_(other, torch.finfo(logits.dtype).min)
            highest = logits.amax(1, keepdim=True)
            exponentials = logits.sub_(highest).exp_()
            sums = exponentials.sum(1, keepdim=True)
            block_weight = weight[start : start + chunk, None]
            total += (block_weight * (sums.log() + highest)).sum()
            if rows_gradient is not None and candidates_gradient is not None:
                softmax = exponentials.mul_(block_weight / (sums * temperature))
                torch.mm(softmax, candidates, out=rows_gradient[start : start + chunk])
                candidates_gradient.addmm_(softmax.T, block)
        if wanted:
            ctx.save_for_backward(rows_gradient, candidates_gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        rows_gradient, candidates_gradient = ctx.saved_tensors
        return gradient * rows_gradient, gradient * candidates_gradient, None, None, None, None, None
