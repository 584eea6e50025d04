"""MAE's loss against a loop over patches and pixels in float64."""

import pytest
import torch
from beartype import beartype
from jaxtyping import jaxtyped

from stablerep.objectives.reconstruction import patchify, reconstruction_loss

checked_loss = jaxtyped(typechecker=beartype)(reconstruction_loss)


def pixels_of(image: torch.Tensor, patch: int, size: int) -> list[torch.Tensor]:
    row, column = divmod(patch, image.shape[2] // size)
    return [
        image[channel, row * size + y, column * size + x]
        for y in range(size)
        for x in range(size)
        for channel in range(3)
    ]


def by_hand(painted, images, hidden, size: int, normalise: bool) -> list[torch.Tensor]:
    found = []
    for row in range(len(images)):
        errors = []
        for patch in range(painted.shape[1]):
            if not hidden[row, patch]:
                continue
            target = torch.stack(pixels_of(images[row], patch, size))
            if normalise:
                mean = target.sum() / len(target)
                variance = ((target - mean) ** 2).sum() / (len(target) - 1)
                target = (target - mean) / (variance + 1e-6) ** 0.5
            squares = [(painted[row, patch, k] - target[k]) ** 2 for k in range(len(target))]
            errors.append(sum(squares) / len(squares))
        found.append(sum(errors) / len(errors))
    return found


@pytest.mark.parametrize("normalise", [True, False])
def test_equals_a_loop_over_pixels(normalise):
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(3, 3, 6, 8, dtype=torch.float64, generator=generator)
    painted = torch.randn(3, 12, 12, dtype=torch.float64, generator=generator).requires_grad_()
    hidden = torch.rand(3, 12, generator=generator) < 0.7
    expected = torch.stack(by_hand(painted, images, hidden, 2, normalise))
    actual = checked_loss(painted, images, hidden, normalise=normalise)
    torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)
    (wanted,), (found,) = (torch.autograd.grad(value.sum(), painted) for value in (expected, actual))
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-12)


def test_patches_hold_their_own_pixels():
    image = torch.arange(3 * 4 * 6).reshape(1, 3, 4, 6).float()
    patches = patchify(image, 2)
    for patch in range(6):
        assert patches[0, patch].tolist() == [float(p) for p in pixels_of(image[0], patch, 2)]
