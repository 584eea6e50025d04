"""A trained encoder as it is used: its weights, and how its images are prepared."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from stablerep.errors import InvalidInput

PAPER_CROP_RATIO = 224 / 256


@dataclass(frozen=True)
class FrozenEncoder:
    """An encoder [n 3 size size] -> [n d] and how its images are prepared.

    `crop_ratio` is the crop's side over the resized image's (timm's `crop_pct`); the paper resizes to 256 and
    crops 224. With 1 an image is only resized.
    """

    model: nn.Module
    image_size: int
    mean: Sequence[float]
    std: Sequence[float]
    crop_ratio: float = PAPER_CROP_RATIO

    def __post_init__(self) -> None:
        if not 0 < self.crop_ratio <= 1:
            raise InvalidInput(f"{self.crop_ratio} is not above 0 and at most 1", field="crop_ratio")


class _WithMeanPatch(nn.Module):
    """A ViT's class token and the mean of its patch tokens, after its last norm: [n 3 s s] -> [n 2d]."""

    def __init__(self, vit: Any) -> None:
        super().__init__()
        self.vit = vit

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.vit.forward_features(images)
        prefix: int = self.vit.num_prefix_tokens
        return torch.cat([tokens[:, 0], tokens[:, prefix:].mean(dim=1)], dim=1)


def with_mean_patch(encoder: FrozenEncoder) -> FrozenEncoder:
    """The same encoder, whose features are the class token and the mean patch token (DINOv3's linear probe).

    Raises InvalidInput for an encoder without a class token.
    """
    if getattr(encoder.model, "num_prefix_tokens", 0) < 1:
        name = type(encoder.model).__name__
        raise InvalidInput(f"dinov3-linear wants a ViT with a class token, not {name}", field="protocol")
    return replace(encoder, model=_WithMeanPatch(encoder.model))
