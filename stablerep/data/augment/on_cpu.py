"""Augmentation of one view at a time on a CPU, in bytes: what `apply` computes, to rounding.

Crop matrices suit a GPU: on a CPU they are most of a batch's time. Here a crop is resized by torch's
antialiased resize of bytes, colours are OpenCV's saturating matrices, and every call releases Python's lock,
so that threads augment different views.
"""

from collections.abc import Callable

import cv2
import numpy as np

from stablerep.data.augment.parameters import ViewParameters
from stablerep.data.decode import resize

_LUMA = np.array([0.2989, 0.587, 0.114], dtype=np.float32)
_GREY = np.tile(_LUMA, (3, 1))
_EYE = np.eye(3, dtype=np.float32)
cv2.setNumThreads(1)  # threads take a view each
_SMALLEST_SIGMA = 0.12
"""Below it a neighbour's weight, exp(-1 / 2 sigma^2), is no step of a byte."""


def augment_view(pixels: np.ndarray, parameters: ViewParameters, row: int, size: int) -> np.ndarray:
    """Uint8 [size size 3] of uint8 [h w 3], with the parameters of that row; not normalised."""
    if parameters.downsample[row]:
        pixels = _there_and_back(pixels, int(parameters.downsample[row]))
    top, left, height, width = parameters.box[row].tolist()
    view = resize(pixels[top : top + height, left : left + width], size, size)
    if parameters.flip[row]:
        view = cv2.flip(view, 1)
    for step in parameters.jitter_order[row].tolist():
        if step >= 0:
            view = _STEPS[step](view, float(parameters.jitter[row, step]))
    if parameters.grayscale[row]:
        view = cv2.transform(view, _GREY)
    sigma = float(parameters.blur_sigma[row])
    return _blur(view, sigma) if sigma > _SMALLEST_SIGMA else view


def _there_and_back(pixels: np.ndarray, shorter: int) -> np.ndarray:
    height, width = pixels.shape[:2]
    factor = shorter / min(height, width)
    low = resize(pixels, max(1, round(height * factor)), max(1, round(width * factor)))
    return resize(low, height, width)


def _brightness(view: np.ndarray, factor: float) -> np.ndarray:
    return cv2.transform(view, _EYE * np.float32(factor))


def _contrast(view: np.ndarray, factor: float) -> np.ndarray:
    mean = float(np.dot(cv2.mean(view)[:3], _LUMA))
    matrix = np.empty((3, 4), dtype=np.float32)
    matrix[:, :3] = _EYE * np.float32(factor)
    matrix[:, 3] = (1 - factor) * mean
    return cv2.transform(view, matrix)


def _saturation(view: np.ndarray, factor: float) -> np.ndarray:
    return cv2.transform(view, _EYE * np.float32(factor) + _GREY * np.float32(1 - factor))


def _hue(view: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hue by `shift` of a full circle; of 256 hues, which wrap around as bytes do."""
    turned = cv2.cvtColor(view, cv2.COLOR_RGB2HSV_FULL)
    shifts = np.zeros(3 * view.shape[1], dtype=np.uint8)
    shifts[::3] = round(shift * 256) % 256
    turned.reshape(len(view), -1)[:] += shifts  # a row at a time: twice as fast as one channel of all pixels
    return cv2.cvtColor(turned, cv2.COLOR_HSV2RGB_FULL)


def _blur(view: np.ndarray, sigma: float) -> np.ndarray:
    radius = min(int(np.ceil(3 * sigma)), view.shape[0] - 1)
    weights = cv2.getGaussianKernel(2 * radius + 1, sigma, cv2.CV_32F)
    return cv2.sepFilter2D(view, -1, weights, weights, borderType=cv2.BORDER_REFLECT_101)


_STEPS: tuple[Callable[[np.ndarray, float], np.ndarray], ...] = (_brightness, _contrast, _saturation, _hue)
"""In the order of `ViewParameters.jitter`."""
