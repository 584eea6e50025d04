"""The noise of an image, from a hash of (job seed, caption id, image index) alone: the same on any worker."""

import hashlib
import struct
from collections.abc import Sequence

import torch
from torch import Tensor


def noise_seed(job_seed: int, caption_id: int, image_index: int) -> int:
    """The 63-bit seed of one image; it never changes between releases, for stored datasets name it.

    torch's CPU generator keeps the low 32 bits of a seed, so two images of a group of 10 share their noise
    with a chance of 1e-8.
    """
    packed = struct.pack(">qqq", job_seed, caption_id, image_index)
    digest = hashlib.blake2b(packed, digest_size=8, person=b"stablerep-noise").digest()
    return int.from_bytes(digest, "big") >> 1


def make_generator(seed: int) -> torch.Generator:
    """A generator of its own for one image, on the CPU: GPUs of different kinds draw differently."""
    return torch.Generator("cpu").manual_seed(seed)


def draw_noise(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal noise, float32 on the CPU, [n, *shape], each row from its own generator."""
    return torch.stack([torch.randn(*shape, generator=generator) for generator in generators])
