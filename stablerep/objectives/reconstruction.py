"""Mean squared error on the hidden patches of an image (He et al. 2022, section 3)."""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def patchify(images: Float[Tensor, "n 3 height width"], size: int) -> Float[Tensor, "n patches pixels"]:
    """The pixels of every patch of size x size, row by row of patches, each as (row, column, channel)."""
    n, channels, height, width = images.shape
    grid = images.reshape(n, channels, height // size, size, width // size, size)
    return grid.permute(0, 2, 4, 3, 5, 1).reshape(n, -1, size * size * channels)


def reconstruction_loss(
    painted: Float[Tensor, "n patches pixels"],
    images: Float[Tensor, "n 3 height width"],
    hidden: Bool[Tensor, "n patches"],
    *,
    normalise: bool = True,
) -> Float[Tensor, " n"]:
    """For every image the mean over its hidden patches of the mean squared error of their pixels, in float32.

    `normalise`: each patch of the image has its own mean taken off and is divided by its standard deviation
    (with n - 1, and 1e-6 under the root), which He et al. found to give better features.
    """
    with torch.autocast(images.device.type, enabled=False):
        dtype = images.dtype if images.dtype == torch.float64 else torch.float32
        target = patchify(images.to(dtype), math.isqrt(painted.shape[2] // images.shape[1]))
        if normalise:
            variance, mean = torch.var_mean(target, dim=2, keepdim=True)
            target = (target - mean) / (variance + 1e-6).sqrt()
        errors = (painted.to(dtype) - target).square().mean(2)
        return (errors * hidden).sum(1) / hidden.sum(1)
