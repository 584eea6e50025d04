"""Tensors on their way to a GPU, on which the host does not wait."""

import torch
from torch import Tensor


def to_device(tensor: Tensor, device: torch.device) -> Tensor:
    """The tensor on the device; where that is a GPU, it is there for whatever is launched after.

    From memory that the GPU reads by itself: a copy from other memory is waited for, and with it everything
    that the GPU has to do before.
    """
    if device.type == "cuda":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
