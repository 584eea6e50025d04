"""How different the images of one caption are: by their pixels, and by the features of an encoder."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from torch import Tensor
from torch.nn.functional import normalize

from stablerep.data.decode import decode_image
from stablerep.shards import Group


@dataclass(frozen=True)
class Spread:
    """Means over groups.

    pixels: standard deviation of a pixel's value over the images of a group, in levels of 256.
    features: 1 - the cosine of two images of a group, averaged over all pairs; None without an encoder.
    """

    groups: int
    pixels: float
    features: float | None


def pixel_spread(images: Sequence[np.ndarray]) -> float:
    """Of two or more images uint8 [h w 3] of one size: the deviation of a pixel's value, in levels."""
    return float(np.stack(images).astype(np.float64).std(axis=0).mean())


def feature_spread(features: Tensor) -> float:
    """Of two or more rows [n d]: 1 - cosine, the mean over pairs of different rows."""
    unit = normalize(features.double(), dim=1)
    count = len(unit)
    return 1 - float((unit.sum(0).square().sum() - count) / (count * (count - 1)))


def measure_spread(groups: Iterable[Group], encode: Callable[[np.ndarray], Tensor] | None = None) -> Spread:
    """Of the groups that have two images or more.

    `encode` makes features [n d] of images uint8 [n h w 3]: `partial(extract_features, encoder)`.
    """
    pixels, features = [], []
    for group in groups:
        if len(group.encoded) < 2:
            continue
        images = [decode_image(data) for data in group.encoded]
        pixels.append(pixel_spread(images))
        if encode is not None:
            features.append(feature_spread(encode(np.stack(images))))
    return Spread(
        len(pixels), float(np.mean(pixels)) if pixels else 0.0, float(np.mean(features)) if features else None
    )
