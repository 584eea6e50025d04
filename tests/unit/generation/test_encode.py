"""Encoding: rounding, the stated JPEG parameters, the paper's resizing, equal bytes for equal pixels."""

import io

import numpy as np
import torch
from PIL import Image

from stablerep.generation.encode import encode_jpeg, to_bytes


def _pixels(size: int = 64) -> np.ndarray:
    across = np.linspace(0, 255, size)
    return np.stack(
        [np.add.outer(across, across) / 2, np.tile(across, (size, 1)), 255 - np.tile(across, (size, 1))], -1
    ).astype(np.uint8)


def test_floats_are_rounded_to_the_nearest_level() -> None:
    levels = torch.tensor([0.0, 0.49 / 255, 0.51 / 255, 100.4 / 255, 1.0]).view(1, 1, 1, 5).expand(1, 3, 1, 5)
    assert to_bytes(levels)[0, 0, :, 0].tolist() == [0, 0, 1, 100, 255]
    assert to_bytes(levels).shape == (1, 1, 5, 3)


def test_channels_stay_in_order() -> None:
    red = torch.tensor([1.0, 0.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 16, 16)
    image = Image.open(io.BytesIO(encode_jpeg(to_bytes(red)[0].numpy(), save_size=16, quality=95)))
    assert image.mode == "RGB"
    assert np.abs(np.asarray(image).reshape(-1, 3).mean(0) - [255, 0, 0]).max() < 3


def test_file_has_the_quality_and_subsampling_that_are_stated() -> None:
    for quality in (40, 95):
        image = Image.open(io.BytesIO(encode_jpeg(_pixels(), save_size=64, quality=quality)))
        assert image.format == "JPEG"
        assert [component[1:3] for component in image.layer] == [(2, 2), (1, 1), (1, 1)]  # 4:2:0
        # libjpeg scales the standard's luminance table, whose first entry is 16.
        scale = 200 - 2 * quality if quality >= 50 else 5000 / quality
        assert image.quantization[0][0] == int((16 * scale + 50) / 100)


def test_equal_pixels_give_equal_bytes() -> None:
    assert encode_jpeg(_pixels(), save_size=32, quality=90) == encode_jpeg(
        _pixels(), save_size=32, quality=90
    )


def test_smaller_copies_are_resized_bicubically() -> None:
    saved = Image.open(io.BytesIO(encode_jpeg(_pixels(), save_size=32, quality=100)))
    tensor = torch.from_numpy(_pixels()).permute(2, 0, 1)[None].float()
    expected = torch.nn.functional.interpolate(tensor, size=32, mode="bicubic", antialias=True)[0].permute(
        1, 2, 0
    )
    assert saved.size == (32, 32)
    assert np.abs(np.asarray(saved, dtype=float) - expected.numpy()).mean() < 1.5


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    saved = Image.open(io.BytesIO(encode_jpeg(_pixels(), save_size=64, quality=100)))
    assert np.abs(np.asarray(saved, dtype=float) - _pixels()).mean() < 1
