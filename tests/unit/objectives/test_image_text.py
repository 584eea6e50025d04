"""Image-text contrast against a double loop in float64, and against open_clip's loss."""

import pytest
import torch
import torch.nn.functional as F
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped
from open_clip.loss import ClipLoss
from torch import Tensor

from stablerep.errors import InvalidInput
from stablerep.objectives.image_text import image_text_loss

checked_loss = jaxtyped(typechecker=beartype)(image_text_loss)


def double_loop(images: Tensor, texts: Tensor, labels: list[int], scale: Tensor, *, masked: bool) -> Tensor:
    """One pair at a time; images view-major."""
    x, y = F.normalize(images, dim=1), F.normalize(texts, dim=1)
    captions = len(texts)

    def mean_cross_entropy(rows: Tensor, others: Tensor) -> Tensor:
        total = rows.new_zeros(())
        for i, row in enumerate(rows):
            own = i % captions
            positives, candidates = [], []
            for j in range(len(others)):
                theirs = j % captions
                same_text = labels[own] == labels[theirs]
                positive = own == theirs if masked else same_text
                if positive:
                    positives.append(j)
                if positive or not (masked and same_text):
                    candidates.append(j)
            denominator = torch.stack([(scale * (row @ others[j])).exp() for j in candidates]).sum()
            for j in positives:
                total = total - ((scale * (row @ others[j])).exp() / denominator).log() / len(positives)
        return total / len(rows)

    return (mean_cross_entropy(x, y) + mean_cross_entropy(y, x)) / 2


def leaves(views: int, captions: int, seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(views * captions, 5, dtype=torch.float64, generator=generator)
    texts = torch.randn(captions, 5, dtype=torch.float64, generator=generator)
    scale = torch.rand((), dtype=torch.float64, generator=generator) * 9 + 1
    return [leaf.requires_grad_() for leaf in (images, texts, scale)]


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    views=st.integers(1, 3),
    equal_texts=st.sampled_from(["positive", "masked"]),
    chunk=st.sampled_from([1, 2, None]),
    seed=st.integers(0, 1000),
)
def test_equals_the_double_loop(labels, views, equal_texts, chunk, seed):
    images, texts, scale = leaves(views, len(labels), seed)
    expected = double_loop(images, texts, labels, scale, masked=equal_texts == "masked")
    actual = checked_loss(
        images, texts, torch.tensor(labels), scale=scale, equal_texts=equal_texts, rows_per_chunk=chunk
    )
    torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-10)
    wanted = torch.autograd.grad(expected + 0 * scale, (images, texts, scale))
    found = torch.autograd.grad(actual + 0 * scale, (images, texts, scale))
    for left, right in zip(found, wanted, strict=True):
        torch.testing.assert_close(left, right, rtol=1e-9, atol=1e-10)


def test_with_one_image_a_caption_it_is_open_clips_loss():
    images, texts, scale = leaves(1, 7, 3)
    normalised = (F.normalize(rows, dim=1) for rows in (images, texts))
    expected = ClipLoss()(*normalised, scale)
    actual = image_text_loss(images, texts, torch.arange(7), scale=scale)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_half_precision_is_computed_in_float32():
    images, texts, _ = leaves(2, 4, 1)
    exact = image_text_loss(images.bfloat16(), texts.bfloat16(), torch.arange(4), scale=100.0)
    assert exact.dtype == torch.float32
    wanted = image_text_loss(
        images.bfloat16().double(), texts.bfloat16().double(), torch.arange(4), scale=100.0
    )
    assert exact.item() == pytest.approx(wanted.item(), rel=1e-5)


@pytest.mark.parametrize("shape", [((3, 5), (2, 5)), ((2, 5, 1), (2, 5))])
def test_shapes_that_do_not_fit_are_refused(shape):
    images, texts = (torch.zeros(size) for size in shape)
    with pytest.raises(InvalidInput, match="want"):
        image_text_loss(images, texts, torch.arange(2), scale=1.0)
