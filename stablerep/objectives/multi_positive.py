"""Multi-positive contrastive loss (StableRep, Tian et al. 2023, eq. 1-3), computed in row chunks.

With unit-norm rows z and the rows that share row i's label as its positives P(i), the cross entropy between
"uniform over P(i)" and the softmax over all other rows is

    L_i = logsumexp_{j != i} z_i.z_j / t  -  mean_{p in P(i)} z_i.z_p / t

Both are computed for a few rows at a time, together with their gradient, so no [n N] matrix outlives its
chunk; positives are a list of pairs, so no mask is built. SimCLR's NT-Xent is the same loss with two views a
label.
"""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from stablerep.errors import InvalidInput
from stablerep.objectives.gather import all_gather, all_gather_with_gradient, rank, world_size

# Logits held at once. On a CPU 16 MiB of them stay near the caches; on a GPU larger products run better, and
# with 128 MiB a loss of 65,536 rows of 256 stays under 500 MB.
_CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**25}


def multi_positive_loss(
    embeddings: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    temperature: float = 0.1,
    instances: Int[Tensor, " n"] | None = None,
    counts: np.ndarray | None = None,
    rows_per_chunk: int | None = None,
    tf32: bool | None = None,
) -> Float[Tensor, ""]:
    """The mean over this rank's n rows of the cross entropy to their positives, among all ranks' rows.

    Rows are normalised here, in float32 (float64 stays float64). Rows with equal labels are positives of each
    other, on whichever rank they are; a row is no candidate of its own. A row without positives contributes
    0 and counts in the mean. Never below ln(positives a row); ln(N - 1) for unrelated embeddings. With
    `instances`, rows are positives only where these are equal too, and rows of one label but another instance
    are left out: neither positives nor candidates.

    Under torch.distributed every rank must pass the same number of rows; averaging the ranks' gradients gives
    the gradient of the mean over all rows. `counts` [n]: how many rows of all ranks have a row's label (and
    instance), itself included, where the host knows: then it does not wait for the device. `rows_per_chunk`
    bounds memory: rows_per_chunk x N values are held at once. `tf32`: products of a CUDA device round their
    factors to TF32's 10 bits of fraction; None does so where embeddings come in 16 bits, which are coarser.
    The loss moves by less than 2**-9 / temperature.
    Raises InvalidInput on shapes that do not fit, counts that are others (on a CPU alone: a GPU would have to
    be asked) or a temperature that is not positive.
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
        label = group = _numbered(all_gather(labels))
        if instances is not None:
            group = _numbered(label * len(label) + _numbered(all_gather(instances)))
        first = rank() * len(rows)
        members = _Members(group, slice(first, first + len(rows)), counts)
        positives = members.own_sizes - 1
        weight = (positives > 0).to(rows.dtype) / len(rows)
        chunk = rows_per_chunk or _default_chunk(candidates)
        left_out = None if instances is None else label
        others = None if world_size() == 1 else candidates
        short = embeddings.dtype in (torch.bfloat16, torch.float16) if tf32 is None else tf32
        with _products(rows, tf32=short):
            return _CrossEntropy.apply(rows, others, members, weight, first, temperature, chunk, left_out)


def floor_of(rows_of_label: np.ndarray) -> float:
    """The least that the loss can be for rows whose labels have so many rows each: the positives' entropy."""
    return float(np.log(np.maximum(1, rows_of_label - 1)).mean())


def _default_chunk(candidates: Tensor) -> int:
    elements = _CHUNK_ELEMENTS.get(candidates.device.type, _CHUNK_ELEMENTS["cuda"])
    return max(1, elements // len(candidates))


@contextmanager
def _products(rows: Tensor, *, tf32: bool) -> Iterator[None]:
    """Matrix products of float32 on CUDA use TF32 or do not, whatever else the process has chosen."""
    if rows.device.type != "cuda" or rows.dtype != torch.float32:
        yield
        return
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("high" if tf32 else "highest")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before)


class _CrossEntropy(torch.autograd.Function):
    """sum_i w_i L_i over `rows`, its gradient made in the forward pass.

    `others` [N d] are the rows of all ranks, of which `rows` [n d] are those from `first` on; None where they
    are the same: then both gradients are one sum. `members`: rows of equal group are positives.
    `left_out` (label [N]): candidates of row i's label but another group do not count.

    The weights are known before the loss is, so a chunk's softmax is used for both gradients while it is
    there: three matrix products a chunk, where recomputation in the backward pass would take four. What draws
    positives together is taken off the softmax before the products, so that their rounding errors cancel as
    the two terms do.
    """

    @staticmethod
    def forward(
        ctx: Any,
        rows: Tensor,
        others: Tensor | None,
        members: "_Members",
        weight: Tensor,
        first: int,
        temperature: float,
        chunk: int,
        left_out: Tensor | None,
    ) -> Tensor:
        candidates = rows if others is None else others
        rows_gradient = torch.zeros_like(rows)
        candidates_gradient = rows_gradient if others is None else torch.zeros_like(others)
        group = members.group
        total = rows.new_zeros(())
        scratch = rows.new_empty(min(chunk, len(rows)), len(candidates))
        for start in range(0, len(rows), chunk):
            block, block_weight = rows[start : start + chunk], weight[start : start + chunk, None]
            here = slice(first + start, first + start + len(block))
            logits = torch.mm(block / temperature, candidates.T, out=scratch[: len(block)])
            row, positive = members.pairs(start, start + len(block))
            share = block_weight[row, 0] / (members.own_sizes[start:][row] - 1).clamp(min=1)
            own = logits.diagonal(offset=here.start)
            own.zero_()  # a row is among the pairs, but no positive of its own
            total -= (share * logits[row, positive]).sum()
            # The lowest finite number, not -inf: a single row has no candidate at all, and must give no NaN.
            own.fill_(torch.finfo(logits.dtype).min)
            if left_out is not None:
                other = (left_out[here, None] == left_out) & (group[here, None] != group)
                logits.masked_fill_(other, torch.finfo(logits.dtype).min)
            highest = logits.amax(1, keepdim=True)
            exponentials = logits.sub_(highest).exp_()
            sums = exponentials.sum(1, keepdim=True)
            total += (block_weight * (sums.log() + highest)).sum()
            if not any(ctx.needs_input_grad):
                continue
            of_logits = exponentials.mul_(block_weight / (sums * temperature))
            of_logits[row, positive] -= share / temperature
            own.zero_()
            rows_gradient[start : start + chunk].addmm_(of_logits, candidates)
            candidates_gradient.addmm_(of_logits.T, block)
        ctx.save_for_backward(rows_gradient, None if others is None else candidates_gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        of_rows, of_others = ctx.saved_tensors
        return gradient * of_rows, None if of_others is None else gradient * of_others, *[None] * 6


def _numbered(values: Tensor) -> Tensor:
    """Each value's place among the distinct ones, [n]. Other than torch.unique, no wait for their number."""
    ordered, where = values.sort(stable=True)
    place = F.pad((ordered[1:] != ordered[:-1]).long(), (1, 0)).cumsum(0)
    return torch.empty_like(values).scatter_(0, where, place)


class _Members:
    """The rows of each group, and pairs of an own row and one of its group.

    `group` [N] of all rows, `own_sizes` [n]: how many rows each own row's group has. The host waits for the
    device at most once, here, and not for each chunk; not at all where the sizes are known to it (`counts`).
    """

    def __init__(self, group: Tensor, own: slice, counts: np.ndarray | None) -> None:
        self.group = group
        sizes = torch.zeros_like(group).scatter_add_(0, group, torch.ones_like(group))
        self._sorted, self._first = torch.argsort(group, stable=True), sizes.cumsum(0) - sizes
        self._own_group = group[own]
        self.own_sizes = sizes[self._own_group]
        if counts is None or group.device.type == "cpu":
            known = self.own_sizes.cpu().numpy()
            if counts is not None and not np.array_equal(counts, known):
                message = "are not how many rows have each row's label and instance"
                raise InvalidInput(message, field="counts")
            counts = known
        self._ends = [0, *np.cumsum(counts).tolist()]

    def pairs(self, start: int, stop: int) -> tuple[Tensor, Tensor]:
        """For own rows from `start` to `stop`: the row, from the first of them, and one of its group."""
        size = self.own_sizes[start:stop]
        pairs = self._ends[stop] - self._ends[start]
        row = torch.repeat_interleave(size, output_size=pairs)
        place = torch.arange(pairs, device=row.device) - (size.cumsum(0) - size)[row]
        return row, self._sorted[self._first[self._own_group[start:stop]][row] + place]
