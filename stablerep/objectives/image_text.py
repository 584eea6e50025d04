"""Contrast between images and texts (Radford et al. 2021; StableRep+, eq. 5), over all ranks, in row chunks.

With unit-norm images x and texts y and a scale s, an image's positive is its text and a text's positives are
its images, each with equal weight:

    L = (cross entropy of images over texts + cross entropy of texts over images) / 2

One text a caption, however many images it has. With one image a caption it is CLIP's loss.
"""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from stablerep.errors import InvalidInput
from stablerep.objectives.gather import all_gather, all_gather_with_gradient, rank

_CHUNK_ELEMENTS = {"cpu": 2**22, "cuda": 2**26}


def image_text_loss(
    images: Float[Tensor, "vn d"],
    texts: Float[Tensor, "n d"],
    labels: Int[Tensor, " n"],
    *,
    scale: Float[Tensor, ""] | float,
    equal_texts: Literal["positive", "masked"] = "positive",
    rows_per_chunk: int | None = None,
) -> Float[Tensor, ""]:
    """The mean over this rank's images, and over its texts, of the cross entropy to their positives; halved.

    `images` are view-major, V views of each of the n captions whose `labels` say which texts are equal.
    "positive": images and texts of equal label are positives, on whichever rank they are. "masked": a
    caption's own alone are, and others with its label are no candidates. Rows are normalised here, in float32
    (float64 stays float64). Every rank must pass as many rows; averaging the ranks' gradients gives the
    gradient of the mean over all. Raises InvalidInput on shapes that do not fit.
    """
    if images.ndim != 2 or texts.ndim != 2 or labels.shape != texts.shape[:1] or len(images) % len(texts):
        message = (
            f"want [v*n d], [n d], [n]; got {list(images.shape)}, {list(texts.shape)}, {list(labels.shape)}"
        )
        raise InvalidInput(message, field="images, texts, labels")
    with torch.autocast(images.device.type, enabled=False):
        exact = torch.float64 if images.dtype == torch.float64 else torch.float32
        image_rows, text_rows = (F.normalize(rows.to(exact), dim=1) for rows in (images, texts))
        views, first = len(images) // len(texts), rank() * len(texts)
        own = torch.arange(first, first + len(texts), device=labels.device)
        of_images, of_texts = _Keys(own.repeat(views), labels.repeat(views)), _Keys(own, labels)
        strict = equal_texts == "masked"
        to_texts = _cross_entropy(image_rows, of_images, text_rows, of_texts, scale, strict, rows_per_chunk)
        to_images = _cross_entropy(text_rows, of_texts, image_rows, of_images, scale, strict, rows_per_chunk)
        return (to_texts + to_images) / 2


class _Keys:
    """Which caption a row belongs to, and which label that has."""

    def __init__(self, captions: Tensor, labels: Tensor) -> None:
        self.captions, self.labels = captions, labels

    def everywhere(self) -> "_Keys":
        return _Keys(all_gather(self.captions), all_gather(self.labels))

    def rows(self, chosen: slice) -> "_Keys":
        return _Keys(self.captions[chosen], self.labels[chosen])


def _cross_entropy(
    rows: Tensor,
    keys: _Keys,
    others: Tensor,
    other_keys: _Keys,
    scale: Tensor | float,
    strict: bool,
    chunk: int | None,
) -> Tensor:
    """The mean over `rows` of the cross entropy to their positives among `others` of all ranks."""
    candidates, theirs = all_gather_with_gradient(others), other_keys.everywhere()
    chunk = chunk or max(1, _CHUNK_ELEMENTS.get(rows.device.type, 2**26) // len(candidates))

    def summed(block: Tensor, mine: _Keys) -> Tensor:
        logits = scale * (block @ candidates.T)
        equal = mine.labels[:, None] == theirs.labels
        positive = equal
        if strict:
            positive = mine.captions[:, None] == theirs.captions
            logits = logits.masked_fill(equal & ~positive, torch.finfo(logits.dtype).min)
        attraction = (logits * positive).sum(1) / positive.sum(1)
        return (logits.logsumexp(1) - attraction).sum()

    # The logits of a chunk are computed again in the backward pass, so that only one chunk is ever held.
    total = rows.new_zeros(())
    for start in range(0, len(rows), chunk):
        part = slice(start, start + chunk)
        total = total + checkpoint(summed, rows[part], keys.rows(part), use_reentrant=False)
    return total / len(rows)
