"""AdamW as the paper sets it, and its learning rate as a function of the step."""

import math
from dataclasses import dataclass

import torch
from torch import nn

from stablerep.runs.config import TrainConfig


def build_optimizer(model: nn.Module, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW over all parameters; those with fewer than two dimensions (biases, norms) do not decay."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {
            "params": [p for p in parameters if p.ndim >= 2],
            "weight_decay": config.optimizer.weight_decay,
            "decays": True,
        },
        {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0, "decays": False},
    ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=config.optimizer.betas, fused=True)


@dataclass(frozen=True)
class Rates:
    """What the optimiser is set to for one step."""

    rate: float
    weight_decay: float

    def apply(self, optimizer: torch.optim.Optimizer) -> None:
        for group in optimizer.param_groups:
            group["lr"] = self.rate
            if group["decays"]:
                group["weight_decay"] = self.weight_decay


def schedule(config: TrainConfig, step: int) -> Rates:
    """The rates of step `step`, counted from 0."""
    begin, end = config.optimizer.weight_decay, config.optimizer.weight_decay_end
    decay = begin
    if end is not None:
        decay = end + (begin - end) * 0.5 * (1 + math.cos(math.pi * step / config.steps))
    return Rates(learning_rate(config, step), decay)


def learning_rate(config: TrainConfig, step: int) -> float:
    """The rate of step `step`, counted from 0: linear from 0 over the warm-up, then half a cosine to 0."""
    warmup, steps = config.optimizer.warmup_steps, config.steps
    if step < warmup:
        return config.learning_rate * step / warmup
    progress = (step - warmup) / max(1, steps - warmup)
    return config.learning_rate * 0.5 * (1 + math.cos(math.pi * progress))
