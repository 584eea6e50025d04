"""Whether and how an encoder's blocks are compiled."""

import os
import shutil
import sysconfig
from pathlib import Path
from typing import Any

import torch
from torch import nn

from stablerep.progress import console
from stablerep.runs.config import TrainConfig

_WORTH = 1_000_000
"""Views of a run; with fewer, compiling would take longer than it saves."""


def compile_blocks(encoder: Any, blocks: list[nn.Module], config: TrainConfig, device: torch.device) -> None:
    """Has a ViT's blocks, or another encoder whole, compiled at their first use, if so configured.

    Blocks of one kind share their machine code. `auto` is for a long run of a ViT on a GPU: what turns out
    not to compile there runs as it is, and torch says so.
    """
    if config.compile == "auto":
        if device.type != "cuda" or not blocks or config.steps * config.views_per_batch < _WORTH:
            return
        if not can_build():
            if not device.index:  # once a machine
                console.print(
                    "The encoder is not compiled: there is no C compiler with Python's headers here."
                )
            return
        torch._dynamo.config.suppress_errors = True
    if not config.compile:
        return
    for module in blocks or [encoder]:
        if config.recompute:  # a checkpoint comes around it, and torch compiles nothing that it enters by one
            module.forward = torch.compile(module.forward)
        else:
            module.compile()


def can_build() -> bool:
    """Whether there is what kernels are built with on a GPU: a C compiler, and Python's headers."""
    compilers = [os.environ["CC"]] if os.environ.get("CC") else ["gcc", "clang"]
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return any(map(shutil.which, compilers)) and headers.exists()
