"""SynCLR's losses: anchors to keys against a double loop, Sinkhorn against its definition, the average."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from stablerep.models.teacher import Teacher, draw_patch_mask, masked_places, momentum_at
from stablerep.objectives import multi_positive_loss
from stablerep.objectives.prototypes import prototype_loss, sinkhorn
from stablerep.objectives.teacher import teacher_loss


def double_loop(
    anchors: Tensor, labels: list[int], keys: Tensor, key_labels: list[int], out: list[int], t: float
) -> Tensor:
    a, k = F.normalize(anchors, dim=1), F.normalize(keys, dim=1)
    total = anchors.new_zeros(())
    for i in range(len(a)):
        candidates = [j for j in range(len(k)) if j != out[i]]
        positives = [j for j in candidates if key_labels[j] == labels[i]]
        if not positives:
            continue
        denominator = torch.stack([(a[i] @ k[j] / t).exp() for j in candidates]).sum()
        for j in positives:
            total = total - ((a[i] @ k[j] / t).exp() / denominator).log() / len(positives)
    return total / len(a)


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    key_labels=st.lists(st.integers(0, 3), min_size=2, max_size=7),
    excluding=st.booleans(),
    chunk=st.sampled_from([1, 2, None]),
    seed=st.integers(0, 1000),
)
def test_equals_the_double_loop(labels, key_labels, excluding, chunk, seed):
    generator = torch.Generator().manual_seed(seed)
    anchors = torch.randn(len(labels), 4, dtype=torch.float64, generator=generator).requires_grad_()
    keys = torch.randn(len(key_labels), 4, dtype=torch.float64, generator=generator).requires_grad_()
    out = [i % len(key_labels) if excluding else -1 for i in range(len(labels))]
    expected = double_loop(anchors, labels, keys.detach(), key_labels, out, 0.2)
    actual = teacher_loss(
        anchors,
        torch.tensor(labels),
        keys,
        torch.tensor(key_labels),
        excluded=torch.tensor(out) if excluding else None,
        temperature=0.2,
        rows_per_chunk=chunk,
    )
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    (wanted,), (found,) = (
        torch.autograd.grad(value + 0 * anchors.sum(), anchors) for value in (expected, actual)
    )
    torch.testing.assert_close(found, wanted, rtol=1e-9, atol=1e-10)
    assert keys.grad is None


def test_with_the_student_as_its_own_teacher_it_is_the_multi_positive_loss():
    rows = torch.randn(8, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    labels = torch.tensor([0, 1, 2, 3] * 2)
    found = teacher_loss(rows, labels, rows, labels, excluded=torch.arange(8), temperature=0.1)
    torch.testing.assert_close(found, multi_positive_loss(rows, labels, temperature=0.1))


def test_sinkhorn_converges_to_balanced_prototypes_with_the_scores_odds():
    scores = torch.randn(12, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) / 5
    plan = sinkhorn(scores, temperature=0.1, iterations=300)
    torch.testing.assert_close(plan.sum(1), torch.ones(12, dtype=torch.float64))
    torch.testing.assert_close(plan.sum(0), torch.full((4,), 3.0, dtype=torch.float64), rtol=1e-6, atol=1e-6)
    # Scaling rows and columns leaves the odds of any two rows at any two prototypes.
    kernel = (scores / 0.1).exp()
    odds = lambda m: (m[0, 0] * m[1, 1]) / (m[0, 1] * m[1, 0])  # noqa: E731
    torch.testing.assert_close(odds(plan), odds(kernel))


def test_three_iterations_are_those_of_the_definition():
    scores = torch.randn(6, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    matrix = np.exp(scores.numpy() / 0.5).T
    matrix /= matrix.sum()
    for _ in range(3):
        matrix = matrix / matrix.sum(1, keepdims=True) / matrix.shape[0]
        matrix = matrix / matrix.sum(0, keepdims=True) / matrix.shape[1]
    expected = (matrix * matrix.shape[1]).T
    np.testing.assert_allclose(sinkhorn(scores, temperature=0.5, iterations=3).numpy(), expected, rtol=1e-10)


def test_the_prototype_loss_is_a_cross_entropy():
    student = torch.randn(5, 4, dtype=torch.float64)
    targets = torch.rand(5, 4, dtype=torch.float64)
    targets /= targets.sum(1, keepdim=True)
    expected = F.cross_entropy(student / 0.1, targets, reduction="none")
    torch.testing.assert_close(prototype_loss(student, targets, temperature=0.1), expected)


def test_a_teacher_is_the_moving_average():
    source = nn.Module()
    source.encoder = nn.Linear(3, 2)
    teacher = Teacher({"encoder": source.encoder})
    assert not any(p.requires_grad for p in teacher.parameters())
    expected = source.encoder.weight.detach().clone()
    for step in range(4):
        with torch.no_grad():
            source.encoder.weight += step
        teacher.follow(source, 0.9)
        expected = 0.9 * expected + 0.1 * source.encoder.weight.detach()
    torch.testing.assert_close(teacher.encoder.weight, expected)


def test_the_momentum_rises_by_half_a_cosine():
    assert [momentum_at(0.9, 1.0, done) for done in (0, 0.5, 1)] == pytest.approx([0.9, 0.95, 1.0])
    assert momentum_at(0.9, 1.0, 0.25) == pytest.approx(1 - 0.1 * (1 + math.cos(math.pi / 4)) / 2)


def test_masks_hide_their_share_of_some_views():
    noise = torch.rand(4000, 16, generator=torch.Generator().manual_seed(0))
    masked = draw_patch_mask(noise, images=0.3, masked=0.5)
    counts = masked.sum(1)
    assert set(counts.tolist()) == {0, 8}
    assert float((counts > 0).double().mean()) == pytest.approx(0.3, abs=0.03)
    assert masked.double().mean(0).std() < 0.02


@pytest.mark.parametrize(("images", "masked"), [(0.3, 0.5), (1.0, 0.1), (0.5, 0.01), (0.0, 0.5)])
def test_places_are_those_of_the_mask(images, masked):
    noise = torch.rand(200, 16, generator=torch.Generator().manual_seed(1))
    mask = draw_patch_mask(noise, images, masked)
    places = masked_places(noise, noise.clone(), images, masked)
    assert sorted(places.flatten().tolist()) == mask.flatten().nonzero().flatten().tolist()
    assert places.shape == (int(mask.any(1).sum()), max(1, round(16 * masked)))
    assert torch.equal(places // 16, (places // 16)[:, :1].expand_as(places)), "a view a row"
