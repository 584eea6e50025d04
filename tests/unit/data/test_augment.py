"""Batched augmentation against torchvision, operation by operation, with the same parameters."""

from itertools import permutations

import numpy as np
import pytest
import torch
from torchvision.transforms import RandomResizedCrop
from torchvision.transforms.v2 import functional as vision

from stablerep.config.augment import IMAGENET_MEAN, IMAGENET_STD, AugmentConfig
from stablerep.data.augment.apply import augment
from stablerep.data.augment.parameters import UNIFORMS_PER_VIEW, ViewParameters, draw_parameters
from tests.memory import LiveBytes

PLAIN = AugmentConfig(mean=(0, 0, 0), std=(1, 1, 1))


def images(count: int, height: int = 32, width: int = 40) -> torch.Tensor:
    """Smooth colourful images in 0..1, with saturated and grey regions."""
    coarse = torch.rand(count, 3, 6, 7, generator=torch.Generator().manual_seed(3)) * 1.4 - 0.2
    smooth = vision.resize(coarse, [height, width]).clamp(0, 1)
    smooth[:, :, :4] = smooth[:, :1, :4]
    return smooth


def parameters(count: int, height: int = 32, width: int = 40, **changed: np.ndarray) -> ViewParameters:
    """The whole image, unchanged, but for what is given."""
    neutral = {
        "sizes": np.tile([height, width], (count, 1)),
        "box": np.tile([0, 0, height, width], (count, 1)),
        "flip": np.zeros(count, bool),
        "jitter": np.tile([1.0, 1.0, 1.0, 0.0], (count, 1)),
        "jitter_order": np.full((count, 4), -1),
        "grayscale": np.zeros(count, bool),
        "blur_sigma": np.zeros(count),
        "downsample": np.zeros(count, np.int64),
    }
    return ViewParameters(**(neutral | changed))


def test_whole_image_at_its_own_size_is_itself():
    pixels = images(3, 32, 32)
    torch.testing.assert_close(augment(pixels, parameters(3, 32, 32), PLAIN, 32), pixels)


def test_flip_is_exact():
    pixels = images(2, 32, 32)
    views = augment(pixels, parameters(2, 32, 32, flip=np.array([True, False])), PLAIN, 32)
    torch.testing.assert_close(views, torch.stack([pixels[0].flip(-1), pixels[1]]))


@pytest.mark.parametrize("size", [16, 28, 50])
def test_crops_are_resized_as_by_torchvision(size):
    pixels = images(3)
    boxes = np.array([[0, 0, 32, 40], [3, 5, 20, 31], [10, 2, 9, 7]])
    views = augment(pixels, parameters(3, box=boxes), PLAIN, size)
    expected = [
        vision.resized_crop(image, *box, [size, size], antialias=True)
        for image, box in zip(pixels, boxes.tolist(), strict=True)
    ]
    torch.testing.assert_close(views, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_lower_resolution_is_resized_down_and_up():
    pixels = images(2, 32, 32)
    views = augment(pixels, parameters(2, 32, 32, downsample=np.array([12, 0])), PLAIN, 32)
    low = vision.resize(vision.resize(pixels[0], [12, 12], antialias=True), [32, 32], antialias=True)
    torch.testing.assert_close(views, torch.stack([low, pixels[1]]), atol=1e-5, rtol=1e-5)


def test_images_of_other_sizes_give_the_views_that_they_give_alone():
    """Boxes are drawn from each image's own size, and what lies beside it in the batch is never seen."""
    sizes = np.array([[32, 40], [24, 24], [40, 20], [32, 40]])
    config = AugmentConfig(downsample=0.5, downsample_sizes=(8, 16))
    uniform = np.random.default_rng(5).random((4, UNIFORMS_PER_VIEW))
    alone, padded = [], torch.rand(4, 3, 40, 40)
    for row, (height, width) in enumerate(sizes.tolist()):
        image = images(1, height, width)
        padded[row, :, :height, :width] = image[0]
        drawn = draw_parameters(config, uniform[row : row + 1], np.array([height, width]))
        alone.append(augment(image, drawn, config, 16))
    drawn = draw_parameters(config, uniform, sizes)
    assert (drawn.downsample > 0).any()
    assert (drawn.box[:, :2] + drawn.box[:, 2:] <= sizes).all()
    torch.testing.assert_close(augment(padded, drawn, config, 16), torch.cat(alone), atol=1e-5, rtol=1e-5)


def test_jitter_equals_torchvision_in_every_order():
    orders = np.array(list(permutations(range(4))))
    pixels = images(len(orders), 12, 12)
    generator = np.random.default_rng(0)
    factors = generator.uniform([0.6, 0.6, 0.6, -0.3], [1.4, 1.4, 1.4, 0.3], (len(orders), 4))
    given = parameters(len(orders), 12, 12, jitter=factors, jitter_order=orders)
    steps = (
        vision.adjust_brightness,
        vision.adjust_contrast,
        vision.adjust_saturation,
        vision.adjust_hue,
    )
    expected = []
    for image, order, factor in zip(pixels, orders, factors, strict=True):
        for kind in order:
            image = steps[kind](image, float(factor[kind]))
        expected.append(image)
    views = augment(pixels, given, PLAIN, 12)
    torch.testing.assert_close(views, torch.stack(expected), atol=2e-4, rtol=1e-4)


def test_grayscale_equals_torchvision():
    pixels = images(2, 32, 32)
    views = augment(pixels, parameters(2, 32, 32, grayscale=np.array([True, False])), PLAIN, 32)
    expected = torch.stack([vision.rgb_to_grayscale(pixels[0], 3), pixels[1]])
    torch.testing.assert_close(views, expected, atol=1e-4, rtol=1e-4)


def test_blur_equals_torchvision():
    pixels = images(3, 32, 32)
    views = augment(pixels, parameters(3, 32, 32, blur_sigma=np.array([0.4, 0.0, 2.0])), PLAIN, 32)
    expected = [vision.gaussian_blur(pixels[0], [13, 13], [0.4] * 2), pixels[1]]
    expected.append(vision.gaussian_blur(pixels[2], [13, 13], [2.0] * 2))
    torch.testing.assert_close(views, torch.stack(expected), atol=1e-5, rtol=1e-5)


def test_bytes_are_normalised_with_imagenet_statistics():
    pixels = (images(2, 28, 28) * 255).round().to(torch.uint8)
    expected = vision.normalize(pixels.float() / 255, list(IMAGENET_MEAN), list(IMAGENET_STD))
    views = augment(pixels, parameters(2, 28, 28), AugmentConfig(), 28)
    torch.testing.assert_close(views, expected, atol=1e-5, rtol=1e-5)


def test_crops_are_distributed_as_torchvisions():
    config = AugmentConfig()
    uniform = np.random.default_rng(1).random((4000, UNIFORMS_PER_VIEW))
    ours = draw_parameters(config, uniform, (48, 64)).box
    torch.manual_seed(1)
    blank = torch.zeros(3, 48, 64)
    theirs = np.array([RandomResizedCrop.get_params(blank, (0.08, 1.0), (3 / 4, 4 / 3)) for _ in range(4000)])
    for column in range(4):
        quantiles = [0.05, 0.25, 0.5, 0.75, 0.95]
        np.testing.assert_allclose(
            np.quantile(ours[:, column], quantiles), np.quantile(theirs[:, column], quantiles), atol=2
        )
    assert (ours[:, 0] + ours[:, 2] <= 48).all()
    assert (ours[:, 1] + ours[:, 3] <= 64).all()


def test_draws_have_the_probabilities_and_ranges_asked_for():
    config = AugmentConfig(downsample=0.05)
    drawn = draw_parameters(config, np.random.default_rng(2).random((20_000, UNIFORMS_PER_VIEW)), (256, 256))
    assert drawn.flip.mean() == pytest.approx(0.5, abs=0.02)
    assert (drawn.jitter_order[:, 0] >= 0).mean() == pytest.approx(0.8, abs=0.02)
    assert drawn.grayscale.mean() == pytest.approx(0.2, abs=0.02)
    assert (drawn.blur_sigma > 0).mean() == pytest.approx(0.5, abs=0.02)
    assert (drawn.downsample > 0).mean() == pytest.approx(0.05, abs=0.01)
    assert set(np.unique(drawn.downsample)) == {0, 64, 128}
    low, high = drawn.jitter.min(0), drawn.jitter.max(0)
    np.testing.assert_allclose(low, [0.6, 0.6, 0.6, -0.1], atol=0.01)
    np.testing.assert_allclose(high, [1.4, 1.4, 1.4, 0.1], atol=0.01)
    assert all(np.bincount(drawn.jitter_order[drawn.jitter_order[:, 0] >= 0, 0], minlength=4) / 16_000 > 0.22)


def test_a_view_does_not_depend_on_its_batch():
    pixels = images(6, 32, 32)
    uniform = np.random.default_rng(4).random((6, UNIFORMS_PER_VIEW))
    config = AugmentConfig()
    drawn = draw_parameters(config, uniform, (32, 32))
    together = augment(pixels, drawn, config, 28)
    half = np.array([1, 4, 5])
    alone = augment(pixels[half], drawn.rows(half), config, 28)
    torch.testing.assert_close(alone, together[half], atol=1e-4, rtol=1e-4)


def test_a_large_batch_is_made_piece_by_piece(monkeypatch):
    """In memory of a piece and what comes of it, where all at once would take ten times as much."""
    pixels = (images(96, 32, 32) * 255).byte()
    drawn = draw_parameters(
        AugmentConfig(), np.random.default_rng(4).random((96, UNIFORMS_PER_VIEW)), (32, 32)
    )
    made, most = {}, {}
    for at_once in (96, 10):
        monkeypatch.setattr("stablerep.data.augment.apply._AT_ONCE", at_once)
        with LiveBytes() as memory:
            made[at_once] = augment(pixels, drawn, AugmentConfig(), 28)
        most[at_once] = memory.most / made[at_once].nbytes
    torch.testing.assert_close(made[10], made[96], atol=1e-4, rtol=1e-4)
    assert most[96] > 4
    assert most[10] < 2
