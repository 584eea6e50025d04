"""What both training stages share: learning rate, moving average, progress lines, checkpoints."""

import time
from pathlib import Path
from typing import Any

import torch
from torch import nn


def learning_rate(
    step: int, steps: int, peak: float, *, warm_up: int = 200, decay_from: float = 0.4
) -> float:
    """Linear warm-up to `peak`, constant, then linear to zero from the fraction `decay_from` of the steps."""
    if step < warm_up:
        return peak * (step + 1) / warm_up
    start = decay_from * steps
    return peak * min(1.0, max(0.0, (steps - step) / max(1.0, steps - start)))


class MovingAverage:
    """An exponential moving average of a module's weights, with a short window at first."""

    def __init__(self, modules: nn.Module, decay: float = 0.9995) -> None:
        self.decay = decay
        self.weights = {name: weight.detach().clone() for name, weight in modules.named_parameters()}

    def update(self, modules: nn.Module, step: int) -> None:
        """Moves the average towards the present weights."""
        decay = min(self.decay, (1 + step) / (10 + step))
        current = dict(modules.named_parameters())
        averages = list(self.weights.values())
        torch._foreach_lerp_(averages, [current[name].detach() for name in self.weights], 1 - decay)

    def copy_to(self, modules: nn.Module) -> None:
        """Puts the averaged weights into the module."""
        with torch.no_grad():
            for name, weight in modules.named_parameters():
                weight.copy_(self.weights[name])


class Progress:
    """Prints the mean loss, seconds a step and the time left, about every `every_s` seconds."""

    def __init__(self, stage: str, first_step: int, steps: int, every_s: float = 20.0) -> None:
        self.stage, self.first, self.steps, self.every_s = stage, first_step, steps, every_s
        self.started = self.printed = time.monotonic()
        self.losses: list[float] = []

    def add(self, step: int, loss: float) -> None:
        """Counts one finished step."""
        self.losses.append(loss)
        now = time.monotonic()
        if now - self.printed >= self.every_s or step + 1 == self.steps:
            pace = (now - self.started) / (step + 1 - self.first)
            left = pace * (self.steps - step - 1)
            mean = sum(self.losses) / len(self.losses)
            print(
                f"{self.stage} {step + 1}/{self.steps} loss {mean:.4f} "
                f"{pace:.3f} s/step, {left / 60:.1f} min left",
                flush=True,
            )
            self.printed, self.losses = now, []


def save_checkpoint(path: Path, state: dict[str, Any]) -> None:
    """Writes the state so that a kill at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    torch.save(state, scratch)
    scratch.replace(path)


def load_checkpoint(path: Path) -> dict[str, Any] | None:
    """The state last saved there, or None."""
    return torch.load(path, weights_only=True) if path.is_file() else None
