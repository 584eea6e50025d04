"""A teacher: the exponential moving average of modules that are trained (He et al. 2020)."""

import copy
import math
from typing import Any

import torch
from torch import Tensor, nn

from stablerep.devices import to_device


class Teacher(nn.Module):
    """Copies of modules under their names, which follow them and have no gradient."""

    def __init__(self, followed: dict[str, nn.Module]) -> None:
        super().__init__()
        for name, module in followed.items():
            self.add_module(name, copy.deepcopy(module))
        self.requires_grad_(False)

    @torch.no_grad()
    def follow(self, source: Any, momentum: float) -> None:
        """Parameters become momentum x themselves + (1 - momentum) x the source's; buffers are copied."""
        for name, module in self.named_children():
            followed = getattr(source, name)
            for own, theirs in zip(module.parameters(), followed.parameters(), strict=True):
                own.lerp_(theirs.to(own.dtype), 1 - momentum)
            for buffer, original in zip(module.buffers(), followed.buffers(), strict=True):
                buffer.copy_(original)


def momentum_at(start: float, end: float, done: float) -> float:
    """Half a cosine from `start` to `end` as `done` goes from 0 to 1."""
    return end - (end - start) * 0.5 * (1 + math.cos(math.pi * done))


class PrototypeHead(nn.Module):
    """Tokens to scores over prototypes: three layers, a unit sphere, unit-norm prototypes (DINO's head).

    `teacher_temperature` sharpens the teacher's scores; a buffer, so that a checkpoint keeps what it was.
    """

    teacher_temperature: Tensor

    def __init__(
        self, width: int, *, hidden: int, bottleneck: int, prototypes: int, teacher_temperature: float = 0.07
    ) -> None:
        super().__init__()
        self.register_buffer("teacher_temperature", torch.tensor(teacher_temperature))
        self.mlp = nn.Sequential(
            nn.Linear(width, hidden),
            nn.GELU(),
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.Linear(hidden, bottleneck),
        )
        self.prototypes = nn.Parameter(torch.empty(prototypes, bottleneck))
        nn.init.trunc_normal_(self.prototypes, std=0.02)
        for layer in self.mlp:
            if isinstance(layer, nn.Linear):
                nn.init.trunc_normal_(layer.weight, std=0.02)
                nn.init.zeros_(layer.bias)

    def points(self, tokens: Tensor) -> Tensor:
        """Points on the unit sphere [... bottleneck] of tokens [... width]."""
        return nn.functional.normalize(self.mlp(tokens), dim=-1)

    def scores(self, points: Tensor) -> Tensor:
        """Cosines [n prototypes] of points [n bottleneck]."""
        return points @ nn.functional.normalize(self.prototypes, dim=1).to(points.dtype).T


class MaskToken(nn.Module):
    """What a masked patch goes in as."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.token = nn.Parameter(torch.zeros(width))


def draw_patch_mask(noise: Tensor, images: float, masked: float) -> Tensor:
    """Bool [n patches]: in a share `images` of the rows, the patches with the least noise, a share `masked`.

    Each patch is drawn by itself, as in the training command of SynCLR's release (`--mask_shape rand`).
    """
    threshold = noise.kthvalue(_masked_count(noise, masked), dim=1, keepdim=True).values
    return (noise <= threshold) & _has_mask(noise, images)[:, None]


def masked_places(noise: Tensor, on_host: Tensor, images: float, masked: float) -> Tensor:
    """Where `draw_patch_mask` has its patches, int64 [m count] below n * patches: a view with a mask a row.

    `on_host` is the same noise where the host has it: how many views have a mask is known there, so that no
    device is waited for.
    """
    views = to_device(_has_mask(on_host, images).nonzero().flatten(), noise.device)
    least = noise.topk(_masked_count(noise, masked), dim=1, largest=False).indices
    return views[:, None] * noise.shape[1] + least.index_select(0, views)


def _masked_count(noise: Tensor, masked: float) -> int:
    return max(1, round(noise.shape[1] * masked))


def _has_mask(noise: Tensor, images: float) -> Tensor:
    """Bool [n], by a number in [0, 1) that the places of the noise do not tell."""
    return (noise.sum(1, dtype=torch.float64) * 9973).frac() < images
