"""Augmentation of a whole batch at once, with parameters of its own for every view.

Crop, resize, flip and the lower-resolution augmentation are linear and separable: composed into one matrix a
side, they are two batched matrix products (antialiased, equal to torchvision's). So is the blur. The colour
steps run on those images of the batch that drew them. Everything is computed on the images' device.
"""

import math
from functools import cache

import numpy as np
import torch
from torch import Tensor

from stablerep.config.augment import AugmentConfig
from stablerep.data.augment.parameters import ViewParameters
from stablerep.devices import to_device

_LUMA = (0.2989, 0.587, 0.114)
_AT_ONCE = 1024
"""Views that are made at once: in between, each takes several times its own memory."""


def augment(images: Tensor, parameters: ViewParameters, config: AugmentConfig, size: int) -> Tensor:
    """Views [n 3 size size], normalised float32, of uint8 images [n 3 H W] (or float in 0..1)."""
    if len(images) <= _AT_ONCE:
        return _augment(images, parameters, config, size)
    dtype = torch.float32 if images.dtype == torch.uint8 else images.dtype
    shape = (len(images), images.shape[1], size, size)
    views = torch.empty(shape, dtype=dtype, device=images.device, memory_format=torch.channels_last)
    for start in range(0, len(images), _AT_ONCE):
        part = slice(start, start + _AT_ONCE)
        views[part] = _augment(images[part], parameters.rows(part), config, size)
    return views


def _augment(images: Tensor, parameters: ViewParameters, config: AugmentConfig, size: int) -> Tensor:
    pixels = images.float() / 255 if images.dtype == torch.uint8 else images
    views = resample(pixels, parameters, size)
    _jitter(views, parameters)
    _grayscale(views, parameters.grayscale)
    _blur(views, parameters.blur_sigma, config.blur_sigma[1])
    return _normalise(views, config)


def normalise(views: Tensor, config: AugmentConfig) -> Tensor:
    """Float32 [n 3 size size] of uint8 views that were augmented on the CPU."""
    return _normalise(views.float().div_(255), config)


def _normalise(views: Tensor, config: AugmentConfig) -> Tensor:
    mean, std = (_constant(tuple(values), views)[:, None, None] for values in (config.mean, config.std))
    return views.sub_(mean).div_(std)


def resample(pixels: Tensor, parameters: ViewParameters, size: int) -> Tensor:
    """Crops, resized with antialiasing and flipped where drawn: [n 3 H W] -> [n 3 size size].

    An image that is smaller than H x W lies in the upper left corner, and `parameters.sizes` says how large.
    """
    n, channels, height, width = pixels.shape
    top, left, box_height, box_width = (_on(column, pixels) for column in parameters.box.T)
    vertical = _crop_matrices(top, box_height, height, size)
    horizontal = _crop_matrices(left, box_width, width, size)
    flip = to_device(torch.from_numpy(parameters.flip), pixels.device)[:, None, None]
    horizontal = torch.where(flip, horizontal.flip(1), horizontal)
    shrunk = np.column_stack([parameters.downsample, parameters.sizes])
    for shorter, own_height, own_width in np.unique(shrunk[parameters.downsample > 0], axis=0).tolist():
        chosen = _where((shrunk == (shorter, own_height, own_width)).all(1), pixels)
        factor = shorter / min(own_height, own_width)
        for matrices, side in ((vertical, own_height), (horizontal, own_width)):
            matrices[chosen, :, :side] = matrices[chosen, :, :side] @ _there_and_back(side, factor, pixels)
    # [n H 3 W] lets each product take all channels at once.
    rows = pixels.transpose(1, 2).reshape(n, height * channels, width)
    rows = torch.bmm(rows, horizontal.transpose(1, 2))
    rows = torch.bmm(vertical, rows.view(n, height, channels * size))
    return rows.view(n, size, channels, size).transpose(1, 2).contiguous()


def _crop_matrices(start: Tensor, length: Tensor, source: int, size: int) -> Tensor:
    """[n size source]: antialiased linear interpolation of source[start : start+length] to `size` points."""
    scale = (length / size)[:, None, None]
    centre = (torch.arange(size, device=start.device)[:, None] + 0.5) * scale
    inside = torch.arange(source, device=start.device) - start[:, None, None]
    weight = (1 - (inside + 0.5 - centre).abs_() / scale.clamp(min=1)).clamp_(min=0)
    weight *= (inside >= 0) & (inside < length[:, None, None])
    return weight / weight.sum(-1, keepdim=True)


def _there_and_back(source: int, factor: float, like: Tensor) -> Tensor:
    """[source source]: shrunk by `factor` and enlarged again."""
    low = max(1, round(source * factor))
    zero = like.new_zeros(1)
    down = _crop_matrices(zero, zero + source, source, low)[0]
    up = _crop_matrices(zero, zero + low, low, source)[0]
    return up @ down


def _jitter(views: Tensor, parameters: ViewParameters) -> None:
    """Brightness, contrast, saturation and hue in each view's own order, in place."""
    factors = _on(parameters.jitter, views)
    steps = (_brightness, _contrast, _saturation, _hue)
    for place in parameters.jitter_order.T:
        for kind, step in enumerate(steps):
            chosen = _where(place == kind, views)
            if len(chosen):
                views[chosen] = step(views[chosen], factors[chosen, kind, None, None, None])


def _brightness(views: Tensor, factor: Tensor) -> Tensor:
    return (views * factor).clamp_(0, 1)


def _contrast(views: Tensor, factor: Tensor) -> Tensor:
    mean = _gray(views).mean((-1, -2), keepdim=True)
    return torch.lerp(mean, views, factor).clamp_(0, 1)


def _saturation(views: Tensor, factor: Tensor) -> Tensor:
    return torch.lerp(_gray(views), views, factor).clamp_(0, 1)


def _hue(views: Tensor, shift: Tensor) -> Tensor:
    """Turns the hue by `shift` of a full circle, at constant value and saturation (HSV)."""
    red, green, blue = views.unbind(1)
    value, low = views.amax(1), views.amin(1)
    chroma = value - low
    divisor = torch.where(chroma == 0, 1, chroma)
    sector = torch.where(
        value == red,
        (green - blue) / divisor,
        torch.where(value == green, 2 + (blue - red) / divisor, 4 + (red - green) / divisor),
    )
    turned = sector + 6 * shift[:, 0]
    offset = _constant((5.0, 3.0, 1.0), turned)[:, None, None]
    place = (turned[:, None] + offset).remainder_(6)
    share = torch.minimum(place, 4 - place).clamp_(0, 1)
    return value[:, None] - chroma[:, None] * share


def _gray(views: Tensor) -> Tensor:
    red, green, blue = views.split(1, dim=1)
    return _LUMA[0] * red + _LUMA[1] * green + _LUMA[2] * blue


def _grayscale(views: Tensor, drawn: np.ndarray) -> None:
    chosen = _where(drawn, views)
    if len(chosen):
        views[chosen] = _gray(views[chosen]).expand(-1, views.shape[1], -1, -1)


def _blur(views: Tensor, sigma: np.ndarray, largest: float) -> None:
    """Gaussian blur of those views that have a sigma, of at most `largest`, edges reflected, in place."""
    chosen = _where(sigma > 0, views)
    if not len(chosen):
        return
    size = views.shape[-1]
    matrices = _blur_matrices(_on(sigma[sigma > 0], views), largest, size)
    part = views[chosen].transpose(1, 2).reshape(len(chosen), size * 3, size)
    part = torch.bmm(part, matrices.transpose(1, 2))
    part = torch.bmm(matrices, part.view(len(chosen), size, 3 * size))
    views[chosen] = part.view(len(chosen), size, 3, size).transpose(1, 2)


def _blur_matrices(sigma: Tensor, largest: float, size: int) -> Tensor:
    """[n size size]: every output point a Gaussian mean, cut at three of the largest sigma."""
    radius = min(math.ceil(3 * largest), size - 1)
    offsets = torch.arange(-radius, radius + 1, device=sigma.device)
    weights = torch.exp(-0.5 * (offsets / sigma[:, None]).square())
    weights /= weights.sum(1, keepdim=True)
    target = (torch.arange(size, device=sigma.device)[:, None] + offsets).abs()
    target = torch.where(target >= size, 2 * (size - 1) - target, target)  # [size taps], reflected
    spread = torch.nn.functional.one_hot(target, size).to(sigma.dtype)  # [size taps size]
    return torch.einsum("nt,itj->nij", weights, spread)


def _where(drawn: np.ndarray, like: Tensor) -> Tensor:
    """The indices of the views that drew something, on their device."""
    return to_device(torch.from_numpy(np.flatnonzero(drawn)), like.device)


def _on(values: np.ndarray, like: Tensor) -> Tensor:
    return to_device(torch.from_numpy(np.ascontiguousarray(values)).to(like.dtype), like.device)


def _constant(values: tuple[float, ...], like: Tensor) -> Tensor:
    return _made_once(values, like.device, like.dtype)


@cache
def _made_once(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    return torch.tensor(values, device=device, dtype=dtype)
