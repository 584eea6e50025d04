"""Effective rank of features whose rank is known."""

import math

import pytest
import torch

from stablerep.evaluation.effective_rank import effective_rank


@pytest.mark.parametrize("directions", [1, 3, 8])
def test_orthogonal_directions_of_equal_strength_count_each(directions):
    features = torch.zeros(8, 12)
    features[range(directions), range(directions)] = 5.0
    assert effective_rank(features) == pytest.approx(directions)


def test_unequal_strengths_count_by_their_entropy():
    features = torch.diag(torch.tensor([3.0, 1.0]))
    entropy = -(0.75 * math.log(0.75) + 0.25 * math.log(0.25))
    assert effective_rank(features) == pytest.approx(math.exp(entropy))


def test_features_that_say_nothing():
    assert effective_rank(torch.zeros(4, 3)) == 0
    assert effective_rank(torch.ones(4, 3)) == pytest.approx(1)
    assert math.isnan(effective_rank(torch.full((4, 3), math.inf)))
