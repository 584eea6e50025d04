"""Views made one by one in bytes are those of the device's batch, to rounding."""

import cv2
import numpy as np
import pytest
import torch
from sklearn.datasets import load_sample_images

from stablerep.config.augment import AugmentConfig
from stablerep.data.augment.apply import augment
from stablerep.data.augment.on_cpu import augment_view
from stablerep.data.augment.parameters import UNIFORMS_PER_VIEW, draw_parameters

NOTHING = {"jitter_probability": 0.0, "grayscale": 0.0, "blur": 0.0, "mean": (0, 0, 0), "std": (1, 1, 1)}
STEPS = {
    "crop and flip": {},
    "lower resolution": {"downsample": 1.0},
    "brightness": {"jitter_probability": 1.0, "jitter": (0.4, 0, 0, 0)},
    "contrast": {"jitter_probability": 1.0, "jitter": (0, 0.4, 0, 0)},
    "saturation": {"jitter_probability": 1.0, "jitter": (0, 0, 0.4, 0)},
    "hue": {"jitter_probability": 1.0, "jitter": (0, 0, 0, 0.1)},
    "grayscale": {"grayscale": 1.0},
    "blur": {"blur": 1.0},
    "the paper's": {"jitter_probability": 0.8, "grayscale": 0.2, "blur": 0.5, "downsample": 0.1},
}


@pytest.fixture(scope="module")
def photographs() -> list[np.ndarray]:
    photographs = load_sample_images().images
    return [cv2.resize(one, (160, 120), interpolation=cv2.INTER_AREA) for one in photographs]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("size", [28, 112])
def test_views_are_those_of_the_device(photographs, step, size):
    config = AugmentConfig(**{**NOTHING, **STEPS[step]})
    random = np.random.default_rng(0)
    apart = []
    for pixels in photographs:
        uniform = random.random((60, UNIFORMS_PER_VIEW))
        drawn = draw_parameters(config, uniform, np.array(pixels.shape[:2]))
        images = torch.from_numpy(pixels).permute(2, 0, 1)[None].expand(60, -1, -1, -1)
        wanted = augment(images, drawn, config, size).permute(0, 2, 3, 1).numpy() * 255
        found = np.stack([augment_view(pixels, drawn, row, size) for row in range(60)])
        assert found.dtype == np.uint8
        apart.append(np.abs(found - wanted))
    levels = np.concatenate(apart)
    assert levels.mean() < 0.6  # rounding alone is 0.25
    assert np.quantile(levels, 0.99) < 4  # of 256 hues


def test_the_image_is_left_as_it_was(photographs):
    config = AugmentConfig(blur=1.0, jitter_probability=1.0, crop_scale=(1.0, 1.0), crop_ratio=(1.0, 1.0))
    pixels = photographs[0][:112, :112].copy()
    before = pixels.copy()
    uniform = np.random.default_rng(1).random((8, UNIFORMS_PER_VIEW))
    drawn = draw_parameters(config, uniform, np.array(pixels.shape[:2]))
    for row in range(8):
        augment_view(pixels, drawn, row, 112)
    np.testing.assert_array_equal(pixels, before)
