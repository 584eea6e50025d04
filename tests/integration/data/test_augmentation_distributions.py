"""2,000 views of real photographs beside 2,000 of torchvision's chain: two samples of one distribution."""

import numpy as np
import pytest
import torch
from scipy.stats import ks_2samp
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.nn.functional import interpolate
from torchvision.transforms import v2

from stablerep.config.augment import AugmentConfig
from stablerep.data.augment.apply import augment
from stablerep.data.augment.parameters import UNIFORMS_PER_VIEW, draw_parameters

DRAWS, SIZE = 2000, 32
AS_THEY_ARE = {"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)}
SETTINGS = {
    "weak": {"jitter_probability": 0.0, "grayscale": 0.0, "blur": 0.0},
    "strong": {"blur_sigma": (0.1, 2.0)},
    "downsample": {"downsample": 0.5, "downsample_sizes": (24, 48), "blur": 0.0},
    "multi-crop": {"crop_scale": (0.05, 0.4)},
}
STATISTICS = {
    "brightness": lambda views: views.mean(dim=(1, 2, 3)),
    "contrast": lambda views: views.mean(dim=1).flatten(1).std(dim=1),
    "colour": lambda views: (views.amax(dim=1) - views.amin(dim=1)).mean(dim=(1, 2)),
    "red to blue": lambda views: (views[:, 0] - views[:, 2]).mean(dim=(1, 2)),
    "sharpness": lambda views: views.mean(dim=1).diff(dim=2).abs().mean(dim=(1, 2)),
    "left to right": lambda views: (
        views.mean(dim=1)[:, :, : SIZE // 2].mean(dim=(1, 2))
        - views.mean(dim=1)[:, :, SIZE // 2 :].mean(dim=(1, 2))
    ),
}


@pytest.fixture(scope="module")
def photographs() -> Tensor:
    """scikit-learn's two photographs, 107 x 160 pixels, as uint8."""
    found = [
        torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() for image in load_sample_images().images
    ]
    small = [interpolate(image, (107, 160), mode="bilinear", antialias=True) for image in found]
    return torch.cat(small).round().to(torch.uint8)


def ours(photographs: Tensor, config: AugmentConfig) -> Tensor:
    uniform = np.random.default_rng(0).random((DRAWS, UNIFORMS_PER_VIEW))
    views = []
    for start in range(0, DRAWS, 200):
        images = photographs[torch.arange(start, start + 200) % 2]
        drawn = draw_parameters(config, uniform[start : start + 200], np.array(images.shape[-2:]))
        views.append(augment(images, drawn, config, SIZE))
    return torch.cat(views)


def torchvisions(photographs: Tensor, config: AugmentConfig) -> Tensor:
    """The release's chain, of torchvision's own classes (reference 2.1)."""
    torch.manual_seed(0)
    b, c, s, h = config.jitter
    crop = v2.RandomResizedCrop(SIZE, scale=config.crop_scale, ratio=config.crop_ratio, antialias=True)
    chain = v2.Compose(
        [
            crop,
            v2.RandomHorizontalFlip(config.flip),
            v2.RandomApply([v2.ColorJitter(b, c, s, h)], config.jitter_probability),
            v2.RandomGrayscale(config.grayscale),
            v2.RandomApply([v2.GaussianBlur(13, config.blur_sigma)], config.blur),
        ]
    )
    views = []
    for draw in range(DRAWS):
        image = photographs[draw % 2].float() / 255
        if torch.rand(()) < config.downsample:
            shorter = config.downsample_sizes[int(torch.rand(()) * len(config.downsample_sizes))]
            low = v2.functional.resize(image, [shorter], antialias=True)
            image = v2.functional.resize(low, list(image.shape[-2:]), antialias=True)
        views.append(chain(image))
    return torch.stack(views)


@pytest.mark.parametrize("name", SETTINGS)
def test_views_are_distributed_as_torchvisions(photographs, name):
    config = AugmentConfig(**{**AS_THEY_ARE, **SETTINGS[name]})
    samples = ours(photographs, config), torchvisions(photographs, config)
    for statistic, of in STATISTICS.items():
        values = [of(views).numpy() for views in samples]
        assert ks_2samp(*values).pvalue > 0.001, statistic


def test_the_statistics_would_notice_another_distribution(photographs):
    """Each setting's neighbour is told from it by some statistic."""
    changes = [
        {"crop_scale": (0.2, 1.0)},
        {"jitter_probability": 0.4},
        {"grayscale": 0.3},
        {"blur": 0.3},
        {"flip": 0.0},
    ]
    base = ours(photographs, AugmentConfig(**AS_THEY_ARE))
    for change in changes:
        other = torchvisions(photographs, AugmentConfig(**AS_THEY_ARE, **change))
        least = min(ks_2samp(of(base).numpy(), of(other).numpy()).pvalue for of in STATISTICS.values())
        assert least < 0.001, change
