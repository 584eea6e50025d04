"""What pipelines, and compilers of their networks, raise; and when it is the device that is at fault."""

from importlib.util import find_spec
from subprocess import SubprocessError

import torch

# A broken GPU stays broken for the process: no shard is to blame, and every later one would fail too. (torch
# before 2.8 has no class for it.)
BROKEN_DEVICE: type[BaseException] = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)
FAULTS = (RuntimeError, ValueError, TypeError, LookupError, ArithmeticError, AssertionError, AttributeError)
"""What a pipeline may raise because of a caption."""


def compiler_faults() -> tuple[type[BaseException], ...]:
    """What networks may raise while they are compiled, or when what was compiled runs for the first time.

    torch turns most of it into errors of its own, but not what happens when kernels are loaded and timed.
    """
    faults = (*FAULTS, ImportError, OSError, SubprocessError)
    if find_spec("triton") is None:  # torch's build for CPUs
        return faults
    from triton.errors import TritonError  # type: ignore[import-untyped,unused-ignore]

    return (*faults, TritonError)
