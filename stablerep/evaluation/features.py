"""Frozen features: what an encoder, or the bare pixels, make of photographs."""

import math
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import InterpolationMode
from torchvision.transforms.v2.functional import resized_crop

from stablerep.devices import out_of_memory, short_of_memory
from stablerep.errors import InvalidInput
from stablerep.evaluation.datasets.photographs import Images
from stablerep.models.frozen import FrozenEncoder

Encoder = FrozenEncoder | Literal["pixels"]


def extract_features(encoder: Encoder, images: Images, *, batch: int = 250) -> Tensor:
    """Features, float32 [n d], of uint8 images [n h w] or [n h w 3]; pixels are flattened, 0 to 1.

    The encoder runs in evaluation mode, without gradients, and is left in the mode it was in.
    """
    if isinstance(encoder, str):
        return torch.from_numpy(images[:].reshape(len(images), -1).astype(np.float32) / 255)
    batches = (
        encode(encoder, prepare(images[start : start + batch], encoder))
        for start in range(0, len(images), batch)
    )
    return torch.cat(list(batches))


def augmented_features(encoder: FrozenEncoder, images: Images, *, seed: int, batch: int = 250) -> Tensor:
    """Features [n d] of one random resized crop of each image, half of them flipped, drawn from `seed`.

    The augmentation of the paper's linear probe: torchvision's default scales (0.08 to 1) and ratios.
    """
    random = torch.Generator().manual_seed(seed)
    batches = []
    for start in range(0, len(images), batch):
        pixels = _as_colour(images[start : start + batch])
        crops = torch.stack([_random_crop(image, encoder.image_size, random) for image in pixels])
        batches.append(encode(encoder, _normalise(crops, encoder)))
    return torch.cat(batches)


def prepare(images: np.ndarray, encoder: FrozenEncoder) -> Tensor:
    """Float32 [n 3 size size]: the shorter side resized (bicubic), the centre cropped, normalised."""
    pixels = _as_colour(images)
    size = encoder.image_size
    height, width = pixels.shape[2:]
    factor = max(size, round(size / encoder.crop_ratio)) / min(height, width)
    target = (round(height * factor), round(width * factor))
    if target != (height, width):
        pixels = interpolate(pixels, target, mode="bicubic", antialias=True).clamp_(0, 1)
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return _normalise(pixels[:, :, top : top + size, left : left + size], encoder)


def encode(encoder: FrozenEncoder, inputs: Tensor) -> Tensor:
    """Features [n d], on the CPU, of prepared images [n 3 size size]; by halves where memory is short.

    Raises InvalidInput if the model gives a map or tokens instead, StableRepError if memory does not suffice
    for one image.
    """
    training = encoder.model.training
    encoder.model.eval()
    like = next(encoder.model.parameters())
    try:
        with torch.inference_mode():
            features = encoder.model(inputs.to(like)).float().cpu()
    except RuntimeError as error:
        if not short_of_memory(error):
            raise
        if len(inputs) == 1:
            raise out_of_memory(error, "Not even one image can be encoded there.") from error
        features = None
    finally:
        encoder.model.train(training)
    if features is None:
        return torch.cat([encode(encoder, half) for half in inputs.tensor_split(2)])
    if features.ndim != 2:
        raise InvalidInput(
            f"the encoder gives {tuple(features.shape)}, not one feature an image; "
            "create it with num_classes=0 and its own pooling",
            field="encoder",
        )
    # An inference tensor could not be used where gradients are taken.
    return features.clone()


def _as_colour(images: np.ndarray) -> Tensor:
    pixels = torch.from_numpy(images.astype(np.float32) / 255)
    if pixels.ndim == 3:
        return pixels[:, None].expand(-1, 3, -1, -1)
    return pixels.permute(0, 3, 1, 2)


def _normalise(pixels: Tensor, encoder: FrozenEncoder) -> Tensor:
    mean, std = (torch.tensor(list(values))[:, None, None] for values in (encoder.mean, encoder.std))
    return (pixels - mean) / std


def _random_crop(image: Tensor, size: int, random: torch.Generator) -> Tensor:
    """A crop as RandomResizedCrop draws it, a share of the area and a ratio of the sides; [3 size size]."""
    height, width = image.shape[1:]
    top, left, crop_height, crop_width = _crop_box(height, width, random)
    crop = resized_crop(
        image,
        top,
        left,
        crop_height,
        crop_width,
        [size, size],
        interpolation=InterpolationMode.BILINEAR,
        antialias=True,
    )
    return crop.flip(2) if torch.rand((), generator=random) < 0.5 else crop


def _crop_box(height: int, width: int, random: torch.Generator) -> tuple[int, int, int, int]:
    for _ in range(10):
        share, shape, down, right = torch.rand(4, generator=random).tolist()
        area = height * width * (0.08 + 0.92 * share)
        ratio = math.exp((2 * shape - 1) * math.log(4 / 3))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top = int(down * (height - crop_height + 1))
            return top, int(right * (width - crop_width + 1)), crop_height, crop_width
    side = min(height, width)
    return (height - side) // 2, (width - side) // 2, side, side
