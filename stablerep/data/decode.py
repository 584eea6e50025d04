"""Encoded images to pixels, as fast as this machine can."""

import io
import math

import cv2
import numpy as np
import simplejpeg
import torch
from PIL import Image

_resize_antialiased = torch.ops.aten._upsample_bilinear2d_aa.out
_JPEG = b"\xff\xd8"


def image_size(data: bytes) -> tuple[int, int]:
    """Height and width by the header alone. Raises one of `files.DAMAGED`."""
    if data.startswith(_JPEG):
        try:
            height, width, *_ = simplejpeg.decode_jpeg_header(data)
            if height * width <= (Image.MAX_IMAGE_PIXELS or math.inf):
                return height, width
        except ValueError:
            pass
        # Pillow says what is wrong, if anything is.
    with Image.open(io.BytesIO(data)) as image:
        return image.height, image.width


def decode_image(data: bytes, into: np.ndarray | None = None) -> np.ndarray:
    """Uint8 [h w 3] of an encoded image, the same numbers as Pillow's. Raises one of `files.DAMAGED`.

    into: memory to decode a JPEG of that very size in, which is returned then; anything may be left in it.
    """
    if data.startswith(_JPEG):
        try:
            height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
            if colours == "CMYK" or height * width > (Image.MAX_IMAGE_PIXELS or math.inf):
                raise ValueError("for Pillow")  # which has its own CMYK, and refuses what is too large
            if into is not None and into.shape != (height, width, 3):
                into = None
            pixels: np.ndarray = simplejpeg.decode_jpeg(data, colorspace="RGB", strict=True, buffer=into)
            return pixels if into is None else into
        except ValueError:
            pass  # it says what is wrong, if anything is
    with Image.open(io.BytesIO(data)) as image:
        return np.array(image.convert("RGB"))


def resize(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """Uint8 [height width 3]: antialiased linear interpolation, torchvision's default."""
    if pixels.shape[:2] == (height, width):
        return pixels
    if pixels.shape[0] <= height and pixels.shape[1] <= width:
        # Nothing to antialias: OpenCV takes a fifth of the time.
        return cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
    made = np.empty((height, width, 3), dtype=np.uint8)
    # What `interpolate` runs, with a place for the result: its own would have the channels first, which
    # takes twice the time.
    _resize_antialiased(
        _with_planes(np.ascontiguousarray(pixels)), [height, width], False, out=_with_planes(made)
    )
    return made


def _with_planes(pixels: np.ndarray) -> torch.Tensor:
    """[1 3 h w], the same memory as [h w 3]."""
    return torch.from_numpy(pixels[None]).permute(0, 3, 1, 2)
