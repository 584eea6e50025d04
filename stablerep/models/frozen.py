"""A trained encoder as it is used: its weights, and how its images are prepared."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

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
