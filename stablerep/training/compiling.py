"""Whether and how an encoder's blocks are compiled."""

from typing import Any

import torch
from torch import nn

from stablerep.building import missing_to_build, pin_rounding
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
        if missing := missing_to_build():
            if not device.index:  # once a machine
                console.print(f"The encoder is not compiled: {missing}.")
            return
        torch._dynamo.config.suppress_errors = True
    if not config.compile:
        return
    pin_rounding()
    for module in blocks or [encoder]:
        if config.recompute:  # a checkpoint comes around it, and torch compiles nothing that it enters by one
            module.forward = torch.compile(module.forward)
        else:
            module.compile()
