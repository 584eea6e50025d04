"""Comparing images with texts, without any training: classes by their names, and retrieval."""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import normalize

EncodeTexts = Callable[[Sequence[str]], Tensor]
RECALLS = (1, 5, 10)


def class_directions(
    encode: EncodeTexts, names: Sequence[str], templates: Sequence[Callable[[str], str]]
) -> Float[Tensor, "classes d"]:
    """A unit vector a class: the normalised mean of its prompts' unit vectors (Radford et al. 2021)."""
    directions = [normalize(encode([t(name) for t in templates]), dim=1).mean(0) for name in names]
    return normalize(torch.stack(directions), dim=1)


def zero_shot_accuracy(
    images: Float[Tensor, "n d"], labels: Int[Tensor, " n"], directions: Float[Tensor, "classes d"]
) -> float:
    """Share (0 to 1) of images whose nearest class, by cosine, is theirs."""
    return float(((normalize(images, dim=1) @ directions.T).argmax(1) == labels).double().mean())


def retrieval_recalls(
    images: Float[Tensor, "n d"],
    captions: Int[Tensor, " n"],
    texts: Float[Tensor, "c d"],
    ranks: Sequence[int] = RECALLS,
) -> dict[str, float]:
    """Recalls (0 to 1) at `ranks`, by name: `image_to_text@1`, ..., `text_to_image@1`, ...

    `captions[i]` is the row of image i's text. An image finds its text if that is among the nearest; a text
    its images if any of them is.
    """
    cosines = normalize(images, dim=1) @ normalize(texts, dim=1).T
    own = cosines.gather(1, captions[:, None])
    better_texts = (cosines > own).sum(1)
    belongs = captions[:, None] == torch.arange(len(texts), device=captions.device)
    best = cosines.masked_fill(~belongs, -torch.inf).amax(0)
    has_image = belongs.any(0)
    better_images = (cosines > best).sum(0)[has_image]
    found = {f"image_to_text@{k}": float((better_texts < k).double().mean()) for k in ranks}
    return found | {f"text_to_image@{k}": float((better_images < k).double().mean()) for k in ranks}
