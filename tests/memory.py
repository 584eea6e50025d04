"""The memory that torch's tensors hold, counted on a CPU as a GPU's allocator would."""

import weakref
from collections.abc import Callable
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """The bytes of tensors made inside: those that live, and the most that lived at once (`most`)."""

    def __init__(self) -> None:
        super().__init__()
        self.live: dict[int, int] = {}
        self.most = 0

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        out = operation(*args, **(kwargs or {}))
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and leaf.untyped_storage()._cdata not in self.live:
                storage: Any = leaf.untyped_storage()
                self.live[storage._cdata] = storage.nbytes()
                weakref.finalize(storage, self.live.pop, storage._cdata)
                self.most = max(self.most, self.held())
        return out

    def held(self) -> int:
        return sum(self.live.values())

    def peak(self, work: Callable[[], object]) -> int:
        self.most = self.held()
        work()
        return self.most
