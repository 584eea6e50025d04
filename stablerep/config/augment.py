"""How views are augmented: the ranges and probabilities of a run's configuration (StableRep, appendix A)."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Probability = Annotated[float, Field(ge=0, le=1)]
Range = tuple[float, float]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class AugmentConfig(BaseModel):
    """What is drawn for every view; the defaults are the paper's.

    `jitter` is how far brightness, contrast and saturation may go from 1, and hue from 0 (in turns).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    crop_scale: Range = (0.08, 1.0)
    crop_ratio: Range = (3 / 4, 4 / 3)
    flip: Probability = 0.5
    jitter: tuple[float, float, float, float] = (0.4, 0.4, 0.4, 0.1)
    jitter_probability: Probability = 0.8
    grayscale: Probability = 0.2
    blur: Probability = 0.5
    blur_sigma: Range = (0.1, 2.0)  # pixels of the view
    downsample: Probability = 0.0  # first shrunk to a lower resolution and enlarged again
    downsample_sizes: tuple[int, ...] = (64, 128)
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD
