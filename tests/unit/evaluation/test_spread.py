"""The spread within a group against sums over pairs written out."""

import io
from itertools import combinations

import numpy as np
import pytest
import torch
from PIL import Image

from stablerep.evaluation.spread import feature_spread, measure_spread, pixel_spread
from stablerep.shards import Group


def jpeg(pixels: np.ndarray) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "JPEG", quality=100)
    return buffer.getvalue()


def test_features_are_compared_by_pairs():
    rows = torch.randn(7, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    cosines = [
        float(rows[a] @ rows[b] / rows[a].norm() / rows[b].norm()) for a, b in combinations(range(7), 2)
    ]
    assert feature_spread(rows) == pytest.approx(1 - sum(cosines) / len(cosines), abs=1e-12)
    assert feature_spread(rows[:1].expand(3, -1)) == pytest.approx(0, abs=1e-12)


def test_pixels_are_a_deviation_in_levels():
    images = [np.full((4, 4, 3), level, np.uint8) for level in (100, 110, 120)]
    assert pixel_spread(images) == pytest.approx(np.std([100, 110, 120]))


def test_groups_of_one_image_say_nothing():
    grey = [jpeg(np.full((8, 8, 3), level, np.uint8)) for level in (90, 110)]
    groups = [Group(0, "a", tuple(grey)), Group(1, "b", (grey[0],)), Group(2, "c", (grey[0], grey[0]))]
    found = measure_spread(groups, lambda images: torch.from_numpy(images.reshape(len(images), -1)).float())
    assert found.groups == 2
    assert found.pixels == pytest.approx(5, abs=0.1)
    assert found.features == pytest.approx(0, abs=1e-6)
    assert measure_spread(groups[1:2]).features is None
