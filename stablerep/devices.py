"""The device that trains and measures, and tensors on their way to it, on which the host does not wait."""

import torch
from torch import Tensor

from stablerep.errors import InvalidInput, StableRepError


def choose_device(name: str = "auto") -> torch.device:
    """A device by its name; `auto`: a GPU that CUDA or ROCm knows, else the CPU.

    Raises InvalidInput for one that cannot be used here.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InvalidInput(f"{name} cannot be used: {reason}", field="device") from None
    return torch.device(name)


_SHORT = (
    " error: out of memory",
    "ran out of memory outside PyTorch's allocator",
    "DefaultCPUAllocator: can't allocate memory",
    "STATUS_ALLOC_FAILED",
    "unable to find an engine to execute this computation",
    "Unable to find a valid cuDNN algorithm",
)
"""What the driver, torch, cuBLAS, cuSOLVER and cuDNN say, and hardly a caption that an error repeats."""


def short_of_memory(error: BaseException) -> bool:
    """Whether it was memory that a device lacked, by torch's own account or by that of a library under it."""
    if isinstance(error, torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _SHORT)


def out_of_memory(error: BaseException, advice: str) -> StableRepError:
    """What a user is told: torch's first sentences, and what takes less."""
    told = ". ".join(" ".join(str(error).split()).split(". ")[:2])
    return StableRepError(f"{told.rstrip('.')}. {advice}")


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; where that is a GPU, it is there for whatever is launched after.

    From memory that the GPU reads by itself: a copy from other memory is waited for, and with it everything
    that the GPU has to do before.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
