"""Attention by the kernel that is the fastest for its shape on the card that is there."""

import math
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from stablerep.devices import short_of_memory

Way = Literal["torch", "cudnn", "flash", "efficient", "math", "cudnn padded", "flash padded"]
PLAIN: Way = "torch"
"""torch's own choice of a kernel."""
_KERNELS = {
    "cudnn": SDPBackend.CUDNN_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "math": SDPBackend.MATH,
}
_WAYS: dict[str, tuple[Way, ...]] = {
    "cuda": (PLAIN, "cudnn", "flash", "efficient", "cudnn padded", "flash padded"),
    "cpu": (PLAIN, "math", "flash padded"),
}
_WIDTH = 64
"""Kernels are written for heads of a multiple of this; those of Stable Diffusion 1 have 40, 80 and 160."""
_GAIN = 0.97  # of the time by torch's own choice: what is less may be chance


class Attention:
    """softmax(q kᵀ / √d) v, for each shape in its way: {`shape_name`: way}.

    Ways differ in rounding alone. Shapes without one are left to torch.
    """

    def __init__(self, ways: Mapping[str, Way] | None = None) -> None:
        self.ways = dict(ways or {})
        self.seen: dict[str, tuple[Tensor, Tensor, Tensor]] | None = None
        """The largest queries, keys and values of each shape, where they are to be kept."""

    def __call__(self, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
        """[n heads q d], [n heads k d], [n heads k d] -> [n heads q d]"""
        name = shape_name(queries, keys)
        if self.seen is not None and (name not in self.seen or self.seen[name][0].numel() < queries.numel()):
            self.seen[name] = (queries, keys, values)
        return attend(self.ways.get(name, PLAIN), queries, keys, values)


def shape_name(queries: Tensor, keys: Tensor) -> str:
    """Queries, keys and a head's width, such as 4096x77x40."""
    return f"{queries.shape[-2]}x{keys.shape[-2]}x{queries.shape[-1]}"


def attend(way: Way, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention by one way. Raises RuntimeError where the kernel cannot do it."""
    if way == PLAIN:
        return F.scaled_dot_product_attention(queries, keys, values)
    kernel, _, padded = way.partition(" ")
    width = queries.shape[-1]
    if padded:
        queries, keys, values = (F.pad(each, (0, -width % _WIDTH)) for each in (queries, keys, values))
    with sdpa_kernel(_KERNELS[kernel]):
        attended = F.scaled_dot_product_attention(queries, keys, values, scale=1 / math.sqrt(width))
    return attended[..., :width]


def fastest_ways(
    shapes: Mapping[str, tuple[Tensor, Tensor, Tensor]],
    seconds_of: Callable[[Callable[[], Tensor]], float] | None = None,
) -> dict[str, Way]:
    """The way for each shape (of `Attention.seen`) that is clearly faster than torch's own choice.

    Args:
        seconds_of: how long some work takes; by default the median of ten times on the tensors' device.
    """
    found: dict[str, Way] = {}
    for name, tensors in shapes.items():
        seconds = _seconds(tensors, seconds_of or _median_seconds)
        best = min(seconds, key=lambda way: seconds[way])
        if seconds[best] < _GAIN * seconds[PLAIN]:
            found[name] = best
    return found


def _seconds(
    tensors: tuple[Tensor, Tensor, Tensor], seconds_of: Callable[[Callable[[], Tensor]], float]
) -> dict[Way, float]:
    """Of each way that can be gone."""
    found: dict[Way, float] = {}
    for way in ways_for(tensors):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # why a kernel is not for this shape
                found[way] = seconds_of(partial(attend, way, *tensors))
        except RuntimeError as error:
            if way == PLAIN or short_of_memory(error):
                raise
            continue  # no such kernel for this shape or card
    return found


def ways_for(tensors: Sequence[Tensor]) -> list[Way]:
    """The ways to try for queries, keys and values; padding only where there is something to pad."""
    queries = tensors[0]
    ways = _WAYS.get(queries.device.type, (PLAIN,))
    return [way for way in ways if queries.shape[-1] % _WIDTH or "padded" not in way]


def _median_seconds(work: Callable[[], Tensor]) -> float:
    def wait() -> None:
        if on_gpu:
            torch.cuda.synchronize()

    on_gpu = work().is_cuda
    times = []
    for _ in range(10):
        wait()
        began = time.perf_counter()
        work()
        wait()
        times.append(time.perf_counter() - began)
    return sorted(times)[5]
