"""Preparation of photographs and what comes out of frozen encoders."""

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from stablerep.errors import InvalidInput, StableRepError
from stablerep.evaluation.datasets.photographs import load_photographs
from stablerep.evaluation.embedding_map import embedding_map
from stablerep.evaluation.features import augmented_features, extract_features, prepare
from stablerep.evaluation.probe import format_table, probe_table
from stablerep.models.frozen import FrozenEncoder


class Flatten(nn.Module):
    """An encoder that gives back its input, so that tests see what it was shown."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(()))
        self.norm = nn.BatchNorm2d(3, affine=False)

    def forward(self, inputs: Tensor) -> Tensor:
        return (self.norm(inputs) * self.scale).flatten(1)


def encoder(size: int, crop_ratio: float = 1.0) -> FrozenEncoder:
    return FrozenEncoder(Flatten(), size, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2), crop_ratio)


def test_a_photograph_in_its_margin_comes_out_of_the_paper_crop_untouched() -> None:
    data = load_photographs("fashion").subset(train=20, test=10)
    prepared = prepare(data.framed().train_images, encoder(28, 224 / 256))
    red = prepared[:, 0] * 0.5 + 0.5
    np.testing.assert_allclose(red.numpy() * 255, data.train_images, atol=1e-3)
    torch.testing.assert_close(prepared[:, 2] * 0.2 + 0.3, red)


def test_resizing_agrees_with_pillow_and_the_centre_is_kept() -> None:
    photograph = load_photographs("fashion").train_images[0]
    wide = np.repeat(np.pad(photograph, ((0, 0), (6, 6)))[..., None], 3, axis=2)
    prepared = prepare(wide[None], encoder(48, 0.75))[0]
    resized = np.asarray(Image.fromarray(wide).resize((91, 64), Image.Resampling.BICUBIC))
    expected = resized[8:56, 21:69] / 255
    shown = prepared.permute(1, 2, 0) * torch.tensor([0.5, 0.25, 0.2]) + torch.tensor([0.5, 0.4, 0.3])
    assert prepared.shape == (3, 48, 48)
    # Pillow rounds to whole grey levels between the two directions, torch does not.
    assert np.abs(shown.numpy() - expected).mean() < 0.002
    assert np.abs(shown.numpy() - expected).max() < 0.05


def test_features_do_not_depend_on_batches_and_leave_the_encoder_as_it_was() -> None:
    images = load_photographs("fashion").train_images[:30]
    frozen = encoder(28)
    frozen.model.train()
    one = extract_features(frozen, images, batch=30)
    assert frozen.model.training
    torch.testing.assert_close(one, extract_features(frozen, images, batch=7))
    assert frozen.model.state_dict()["norm.num_batches_tracked"] == 0
    assert not one.requires_grad


def test_tokens_are_refused_with_a_hint() -> None:
    frozen = FrozenEncoder(nn.Conv2d(3, 4, 3), 28, (0.5,) * 3, (0.5,) * 3)
    with pytest.raises(InvalidInput, match="num_classes=0"):
        extract_features(frozen, np.zeros((2, 28, 28), np.uint8))


def test_augmented_features_follow_their_seed() -> None:
    images = load_photographs("fashion").train_images[:12]
    first = augmented_features(encoder(28), images, seed=1)
    torch.testing.assert_close(first, augmented_features(encoder(28), images, seed=1))
    assert (first - augmented_features(encoder(28), images, seed=2)).abs().mean() > 0.05
    assert first.shape == (12, 3 * 28 * 28)


def test_every_row_of_a_table_is_measured_on_the_same_draws() -> None:
    data = load_photographs("digits").subset(train=600, test=300)
    identity = FrozenEncoder(Flatten(), 8, (0.0,) * 3, (1.0,) * 3, 1.0)
    rows = probe_table({"pixels": "pixels", "identity": identity}, data, draws=5)
    # Three copies of the pixels are the pixels: the same draws must give the same accuracies.
    np.testing.assert_allclose(rows["identity"].few_draws, rows["pixels"].few_draws, atol=0.02)
    assert rows["identity"].knn == pytest.approx(rows["pixels"].knn, abs=0.005)
    assert rows["pixels"].linear > 0.9
    assert len(format_table(rows).splitlines()) == 3


def test_map_shows_the_same_photographs_for_every_encoder_and_keeps_classes_together() -> None:
    labels = torch.arange(150) % 3
    random = torch.Generator().manual_seed(0)
    features = 10 * torch.nn.functional.one_hot(labels, 20).float() + torch.randn(150, 20, generator=random)
    shown = embedding_map(features, labels, limit=90)
    assert shown.rows == embedding_map(features * 3, labels, limit=90).rows
    assert shown.labels == labels[shown.rows].tolist()
    points = np.array(shown.coordinates)
    assert points.shape == (90, 2)
    assert np.abs(points).max() == pytest.approx(1)
    nearest = ((points[:, None] - points) ** 2).sum(-1) + 9 * np.eye(90)
    assert (np.array(shown.labels)[nearest.argmin(1)] == np.array(shown.labels)).mean() > 0.95


class ShortOfMemory(Flatten):
    """Memory suffices for so many images at once."""

    most = 4
    error: RuntimeError = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has.")

    def forward(self, inputs: Tensor) -> Tensor:
        if len(inputs) > self.most:
            raise self.error
        return super().forward(inputs)


def test_where_memory_is_short_fewer_images_are_encoded_at_once() -> None:
    images = load_photographs("fashion").train_images[:30]
    short = FrozenEncoder(ShortOfMemory(), 28, (0.5, 0.4, 0.3), (0.5, 0.25, 0.2), 1.0)
    short.model.train()
    torch.testing.assert_close(extract_features(short, images), extract_features(encoder(28), images))
    assert short.model.training
    short.model.error = RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")
    torch.testing.assert_close(extract_features(short, images), extract_features(encoder(28), images))
    short.model.error = RuntimeError("mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        extract_features(short, images)
    short.model.error = ShortOfMemory.error
    short.model.most = 0
    told = r"^CUDA out of memory\. Tried to allocate 2\.00 GiB\. Not even one image can be encoded there\.$"
    with pytest.raises(StableRepError, match=told):
        extract_features(short, images)
