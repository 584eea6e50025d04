"""Noise: seeds are a stable function of (job seed, caption id, image index), and so is what is drawn."""

import hashlib

import pytest
import torch

from stablerep.generation.noise import draw_noise, make_generator, noise_seed


def test_seed_is_the_documented_hash() -> None:
    message = b"".join(value.to_bytes(8, "big", signed=True) for value in (-7, 123_456_789_012, 9))
    expected = int(hashlib.blake2b(message, digest_size=8, person=b"stablerep-noise").hexdigest(), 16) // 2
    assert noise_seed(-7, 123_456_789_012, 9) == expected


def test_seeds_never_change_between_releases() -> None:
    assert [noise_seed(0, 0, 0), noise_seed(0, 0, 1), noise_seed(0, 1, 0), noise_seed(1, 0, 0)] == [
        3124895935428103837,
        4422674127837944452,
        5477965366576284853,
        8133318008432966316,
    ]


def test_seeds_fit_63_bits_and_differ() -> None:
    seeds = [
        noise_seed(job, caption, image) for job in range(5) for caption in range(200) for image in range(9)
    ]
    assert len(set(seeds)) == len(seeds)
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert max(seeds) > 2**61  # all of the width is used


def test_noise_of_an_image_does_not_depend_on_its_neighbours() -> None:
    alone = draw_noise([make_generator(5)], (4, 8, 8))
    among = draw_noise([make_generator(seed) for seed in (1, 2, 5, 9)], (4, 8, 8))
    assert torch.equal(among[2], alone[0])
    assert not torch.equal(among[1], among[2])
    assert alone.dtype == torch.float32


def test_drawing_ignores_and_leaves_the_global_generator() -> None:
    torch.manual_seed(1)
    first = draw_noise([make_generator(5)], (3,))
    after = torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), after)
    assert torch.equal(draw_noise([make_generator(5)], (3,)), first)


def test_noise_is_standard_normal() -> None:
    noise = draw_noise([make_generator(noise_seed(0, caption, 0)) for caption in range(500)], (4, 8, 8))
    assert noise.mean().item() == pytest.approx(0, abs=0.02)
    assert noise.std().item() == pytest.approx(1, abs=0.02)
    pairs = (noise[:-1] * noise[1:]).mean(dim=(1, 2, 3))  # neighbours' correlation: sd 1/16 each
    assert pairs.abs().max().item() < 6 / 16
