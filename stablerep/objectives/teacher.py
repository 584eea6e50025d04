"""Multi-positive contrast of a student's anchors to a teacher's keys (SynCLR, Tian et al. 2024, section 3.2).

As the multi-positive loss, but the candidates are keys without gradient: an anchor's positives are the keys
of its label, uniformly, and the key of its own view may be left out.
"""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stablerep.errors import InvalidInput

_CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**26}


def teacher_loss(
    anchors: Float[Tensor, "a d"],
    anchor_labels: Int[Tensor, " a"],
    keys: Float[Tensor, "k d"],
    key_labels: Int[Tensor, " k"],
    *,
    excluded: Int[Tensor, " a"] | None = None,
    temperature: float = 0.08,
    rows_per_chunk: int | None = None,
) -> Float[Tensor, ""]:
    """The mean over anchors of the cross entropy between "uniform over positives" and the softmax over keys.

    `keys` are those of all ranks, detached here. `excluded[i]` is the key that is no candidate of anchor i
    (that of its own view), -1 for none. An anchor without positives contributes 0 and counts in the mean.
    Rows are normalised here, in float32 (float64 stays float64). Raises InvalidInput on a temperature that is
    not positive.
    """
    if temperature <= 0:
        raise InvalidInput(f"must be above 0, is {temperature}", field="temperature")
    with torch.autocast(anchors.device.type, enabled=False):
        exact = torch.float64 if anchors.dtype == torch.float64 else torch.float32
        rows = F.normalize(anchors.to(exact), dim=1)
        candidates = F.normalize(keys.detach().to(exact), dim=1)
        left_out = torch.full_like(anchor_labels, -1) if excluded is None else excluded
        numbers = torch.arange(len(candidates), device=rows.device)

        def summed(block: Tensor, labels: Tensor, out: Tensor) -> Tensor:
            logits = block @ candidates.T / temperature
            masked = numbers == out[:, None]
            logits = logits.masked_fill(masked, torch.finfo(logits.dtype).min)
            positive = (labels[:, None] == key_labels) & ~masked
            count = positive.sum(1)
            attraction = torch.where(positive, logits, 0).sum(1) / count.clamp(min=1)
            return torch.where(count > 0, logits.logsumexp(1) - attraction, 0).sum()

        chunk = rows_per_chunk or max(1, _CHUNK_ELEMENTS.get(rows.device.type, 2**26) // len(candidates))
        total = rows.new_zeros(())
        for start in range(0, len(rows), chunk):
            part = slice(start, start + chunk)
            total = total + checkpoint(
                summed, rows[part], anchor_labels[part], left_out[part], use_reentrant=False
            )
        return total / len(rows)
