"""A demo that cannot time its stages says why in a line."""

import pytest

from stablerep.demo.pace import _last_error

OF_CUDA = """Traceback (most recent call last):
  File "pace.py", line 1, in <module>
torch.AcceleratorError: CUDA error: out of memory
Search for `cudaErrorMemoryAllocation' in https://docs.nvidia.com/cuda for more information.
CUDA kernel errors might be asynchronously reported at some other API call
For debugging consider passing CUDA_LAUNCH_BLOCKING=1
"""


@pytest.mark.parametrize(
    ("errors", "told"),
    [
        (OF_CUDA, "torch.AcceleratorError: CUDA error: out of memory"),
        (
            "warning: old\nTraceback\nModuleNotFoundError: No module named 'x'\n",
            "ModuleNotFoundError: No module named 'x'",
        ),
        ("Killed\n", "Killed"),
        ("", "no output"),
    ],
)
def test_the_error_is_told(errors, told):
    assert _last_error(errors) == told
