"""Nearest upsampling and the 3x3 convolution after it, as one convolution of the small image.

Upsampling repeats pixels, so that a pixel of the large image sees 2x2 of the small one. Each of the four
pixels that a small one becomes has its own sums of the nine weights: 16 products in place of 36.
"""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Upsampler(nn.Module):
    """An `Upsample2D` of diffusers that has a 3x3 convolution; where sides do not double, as it is."""

    weight: Tensor
    bias: Tensor

    def __init__(self, upsampler: Any) -> None:
        super().__init__()
        self.plain = upsampler
        conv = upsampler.conv
        weight = conv.weight.detach()
        rows = _sums(weight.to(torch.promote_types(weight.dtype, torch.float32)), dim=2)
        both = [part for row in rows for part in _sums(row, dim=3)]
        layout = torch.channels_last if weight.is_contiguous(memory_format=torch.channels_last) else None
        folded = torch.stack(both).flatten(0, 1).to(weight.dtype)
        self.register_buffer("weight", folded.contiguous(memory_format=layout or torch.contiguous_format))
        self.register_buffer("bias", conv.bias.detach().repeat(4))

    def forward(self, x: Tensor, size: Sequence[int] | None = None) -> Tensor:
        """[n c h w] -> [n c H W], of twice the sides or of `size`."""
        n, _, height, width = x.shape
        if size is not None and tuple(size) != (2 * height, 2 * width):
            plain: Tensor = self.plain(x, size)
            return plain
        phases = F.conv2d(x, self.weight, self.bias, padding=1).permute(0, 2, 3, 1).unflatten(-1, (2, 2, -1))
        rows = [
            torch.stack([phases[:, a : a + height, b : b + width, a, b] for b in (0, 1)], dim=3)
            for a in (0, 1)
        ]
        large = torch.stack(rows, dim=2).reshape(n, 2 * height, 2 * width, -1).permute(0, 3, 1, 2)
        return large if x.is_contiguous(memory_format=torch.channels_last) else large.contiguous()


def _sums(weight: Tensor, dim: int) -> tuple[Tensor, Tensor]:
    """Weights of three neighbours, two of them one pixel: for the first of a pair, and for the second."""
    before, here, after = weight.unbind(dim)
    return torch.stack([before, here + after], dim), torch.stack([before + here, after], dim)
