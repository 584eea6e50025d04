"""Lets torch's compiler write its Triton kernels for the stand-in, and Triton's interpreter run them."""

from typing import Any

import numpy as np
import torch
import torch._inductor.config as inductor
import triton.language as tl
from torch._inductor.constant_folding import ConstantFolder
from torch._inductor.runtime.hints import TRITON_MAX_BLOCK
from torch._inductor.runtime.runtime_utils import next_power_of_2
from torch._inductor.runtime.triton_heuristics import CachingAutotuner
from torch.utils._python_dispatch import TorchDispatchMode
from triton.language.extra import libdevice
from triton.runtime.interpreter import ReduceOps, TensorHandle

_OTHER_NAMES = {"nearbyint": "round", "fast_dividef": "divide"}


def start(on_host: type[TorchDispatchMode]) -> None:
    """From here on; what the compiler computes by itself, with all modes off, is computed in `on_host`."""
    inductor.shape_padding = False  # it asks a clock
    fold = ConstantFolder.run

    def fold_on_host(folder: ConstantFolder) -> Any:
        with on_host():
            return fold(folder)

    ConstantFolder.run = fold_on_host
    place = CachingAutotuner._interpret_args_grid

    def place_few(kernel: CachingAutotuner, given: Any, how: Any) -> Any:
        """Each program is interpreted by itself: as few as the compiler's masks allow."""
        for name, size in ({} if kernel.is_mix_order_reduction else kernel.size_hints).items():
            if (block := f"{name.upper()}BLOCK") in how.kwargs and name in ("x", "y", "z"):
                how.kwargs[block] = min(TRITON_MAX_BLOCK[name.upper()], next_power_of_2(size))
        return place(kernel, given, how)

    CachingAutotuner._interpret_args_grid = place_few
    ReduceOps.generic_reduce = _reduce_in_halves
    for name in [name for name in vars(libdevice) if not name.startswith("_")]:
        if function := getattr(torch, _OTHER_NAMES.get(name, name), None):
            setattr(libdevice, name, _by_torch(function))


def _reduce_in_halves(how: ReduceOps, given: tuple[Any, ...]) -> list[Any]:
    """The interpreter's own way combines one value after the other: minutes for one norm."""
    given, axis = how.unravel(given, how.axis)
    dimensions = given[0].handle.data.ndim
    parts = given
    while (size := parts[0].handle.data.shape[axis]) > 1:
        halves = [np.split(each.handle.data, [size // 2], axis) for each in parts]
        first, second = (
            [how.to_tensor(half[i], each.dtype) for half, each in zip(halves, given, strict=True)]
            for i in (0, 1)
        )
        made = how.combine_fn.fn(*first, *second)
        parts = made if isinstance(made, tuple) else (made,)
    reduced = [each.handle.data for each in parts]
    if not how.keep_dims:
        reduced = [each.squeeze(axis) for each in reduced]
    elif how.axis is None:
        reduced = [each.reshape([1] * dimensions) for each in reduced]
    return [how.to_tensor(data, each.dtype) for data, each in zip(reduced, given, strict=True)]


def _by_torch(function: Any) -> Any:
    """A function of the device's library, which the interpreter has no body of."""

    def call(*tensors: Any) -> Any:
        handle, kind = tensors[0].handle, tensors[0].type
        made = function(*(torch.from_numpy(np.ascontiguousarray(each.handle.data)) for each in tensors))
        return tl.tensor(TensorHandle(made.numpy().astype(handle.data.dtype), handle.dtype), kind)

    return call
