"""Loss scaling for float16, whose small gradients would be zeros; nothing at any other precision."""

import math
from collections.abc import Mapping

import torch
from torch import Tensor

_STATE = "run.loss_scale"


class LossScale:
    """Multiplies the loss, divides the gradients, and leaves a step out whose gradients overflowed.

    What was scaled last, and how long ago it grew, are kept in checkpoints: a resumed run scales alike.
    """

    def __init__(self, precision: str, device: torch.device) -> None:
        self.enabled = precision == "float16"
        self._scaler = torch.amp.GradScaler(device.type, enabled=self.enabled)

    def scale(self, loss: Tensor) -> Tensor:
        """The loss to take gradients of."""
        return self._scaler.scale(loss)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divides the gradients by the scale; before they are clipped or measured."""
        if self.enabled:
            self._scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """The optimiser's step, unless a gradient overflowed; then the scale is halved."""
        if self.enabled:
            self._scaler.step(optimizer)
            self._scaler.update()
        else:
            optimizer.step()

    def finite(self, norm: float | None) -> float | None:
        """A gradient's norm; None where it overflowed, which is no divergence here."""
        return None if self.enabled and norm is not None and not math.isfinite(norm) else norm

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        if not self.enabled:
            return {}
        state = self._scaler.state_dict()
        return {_STATE: torch.tensor([state["scale"], state["_growth_tracker"]], dtype=torch.float64)}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from a checkpoint's tensors."""
        if self.enabled and _STATE in tensors:
            scale, tracker = tensors[_STATE].tolist()
            state = self._scaler.state_dict()
            self._scaler.load_state_dict({**state, "scale": scale, "_growth_tracker": int(tracker)})
