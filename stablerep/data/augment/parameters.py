"""What is random about a view, drawn from uniform numbers: crop, flip, colours, blur."""

from dataclasses import dataclass
from itertools import permutations

import numpy as np

from stablerep.config.augment import AugmentConfig

_CROP_ATTEMPTS = 10  # as torchvision's RandomResizedCrop
_ORDERS = np.array(list(permutations(range(4))))


@dataclass(frozen=True)
class ViewParameters:
    """One row a view; all that is random about it."""

    sizes: np.ndarray  # int64 [n 2]: height and width of the image
    box: np.ndarray  # int64 [n 4]: top, left, height, width of the crop
    flip: np.ndarray  # bool [n]
    jitter: np.ndarray  # float [n 4]: factors for brightness, contrast, saturation; shift of hue in turns
    jitter_order: np.ndarray  # int [n 4]: which of the four comes first, second, ...; -1 for none
    grayscale: np.ndarray  # bool [n]
    blur_sigma: np.ndarray  # float [n]; 0 for none
    downsample: np.ndarray  # int64 [n]: pixels of the shorter side; 0 for none

    def rows(self, chosen: np.ndarray | slice) -> "ViewParameters":
        """The parameters of these views alone."""
        return ViewParameters(**{name: values[chosen] for name, values in vars(self).items()})


UNIFORMS_PER_VIEW = 2 * _CROP_ATTEMPTS + 14


def draw_parameters(config: AugmentConfig, uniform: np.ndarray, sizes: np.ndarray) -> ViewParameters:
    """Parameters for n views of images of `sizes` (height, width), from uniform [n UNIFORMS_PER_VIEW].

    `sizes` are int64 [n 2], or [2] where all images have one size.
    """
    sizes = np.broadcast_to(sizes, (len(uniform), 2))
    columns = iter(np.split(uniform, UNIFORMS_PER_VIEW, axis=1))

    def number() -> np.ndarray:
        return next(columns)[:, 0]

    area = np.stack([number() for _ in range(_CROP_ATTEMPTS)])
    ratio = np.stack([number() for _ in range(_CROP_ATTEMPTS)])
    box = _draw_boxes(config, area, ratio, number(), number(), sizes)
    flip = number() < config.flip
    jittered = number() < config.jitter_probability
    *strengths, hue = config.jitter
    factors = [max(0.0, 1 - s) + number() * (1 + s - max(0.0, 1 - s)) for s in strengths]
    jitter = np.stack([*factors, (2 * number() - 1) * hue], axis=1)
    order = _ORDERS[(number() * len(_ORDERS)).astype(np.int64)]
    grayscale = number() < config.grayscale
    blurred = number() < config.blur
    sigma = config.blur_sigma[0] + number() * (config.blur_sigma[1] - config.blur_sigma[0])
    shrunk = number() < config.downsample
    lower = np.array(config.downsample_sizes or (0,))
    size = lower[(number() * len(lower)).astype(np.int64)]
    return ViewParameters(
        sizes=sizes,
        box=box,
        flip=flip,
        jitter=jitter,
        jitter_order=np.where(jittered[:, None], order, -1),
        grayscale=grayscale,
        blur_sigma=np.where(blurred, sigma, 0.0),
        downsample=np.where(shrunk, size, 0),
    )


def _draw_boxes(
    config: AugmentConfig,
    area: np.ndarray,
    ratio: np.ndarray,
    down: np.ndarray,
    right: np.ndarray,
    sizes: np.ndarray,
) -> np.ndarray:
    """As torchvision's RandomResizedCrop: the first of ten tries that fits, else a crop in the centre."""
    height, width = sizes.T
    target = height * width * (config.crop_scale[0] + area * (config.crop_scale[1] - config.crop_scale[0]))
    low, high = np.log(config.crop_ratio)
    aspect = np.exp(low + ratio * (high - low))
    widths = np.round(np.sqrt(target * aspect)).astype(np.int64)
    heights = np.round(np.sqrt(target / aspect)).astype(np.int64)
    fits = (widths > 0) & (widths <= width) & (heights > 0) & (heights <= height)
    first, each = fits.argmax(0), np.arange(fits.shape[1])
    found = fits.any(0)
    fallback_width = np.minimum(width, np.round(height * config.crop_ratio[1])).astype(np.int64)
    fallback_height = np.minimum(height, np.round(width / config.crop_ratio[0])).astype(np.int64)
    box_height = np.where(found, heights[first, each], fallback_height)
    box_width = np.where(found, widths[first, each], fallback_width)
    top = np.where(found, (down * (height - box_height + 1)).astype(np.int64), (height - box_height) // 2)
    left = np.where(found, (right * (width - box_width + 1)).astype(np.int64), (width - box_width) // 2)
    return np.stack([top, left, box_height, box_width], axis=1)
