"""Finds what makes the host wait for a GPU, without one: on torch's meta device, that of shapes alone.

What would be waited for on a GPU is a value read from it, which fails on the meta device, or a copy to it
that is not begun with `non_blocking`, which is seen among the operations.
"""

from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

FROM_A_LIST = "aten.lift_fresh.default"
"""All that the meta device shows of a list, of indices say, that becomes a tensor there: another copy."""


class Waits(TorchDispatchMode):
    """Names the operations that take a tensor from the host to the device and are waited for."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._new_tensors = _NewTensors(self.found)

    def __enter__(self) -> "Waits":
        self._new_tensors.__enter__()
        super().__enter__()
        return self

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        self._new_tensors.__exit__(*error)

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        devices = {one.device.type for one in tree_leaves((args, kwargs, result)) if is_data(one)}
        crosses = devices == {"cpu", "meta"} and not kwargs.get("non_blocking")
        if crosses or (str(func) == FROM_A_LIST and "meta" in devices):
            self.found.append(str(func))
        return result


class _NewTensors(TorchFunctionMode):
    """Finds `x.new_tensor(...)`, of which the dispatcher sees nothing on the meta device."""

    def __init__(self, found: list[str]) -> None:
        super().__init__()
        self._found = found

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.new_tensor and args[0].device.type == "meta":
            self._found.append("new_tensor")
        return func(*args, **(kwargs or {}))


def is_data(value: object) -> bool:
    """A number that torch wrapped is no data: it goes with the launch."""
    return isinstance(value, Tensor) and value.dim() > 0
