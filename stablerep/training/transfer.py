"""Images on their way to a GPU while the step before runs, and how long a step waits for them."""

from collections import deque

import torch
from torch import Tensor

from stablerep.training.idle import Mark, mark_on


class Transfer:
    """Copies to a device. To a GPU in a stream of their own, which waits for no step.

    The host runs ahead of the GPU: it sends the next step's images while one is at work.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._stream = torch.cuda.Stream(device) if device.type == "cuda" else None
        self._waits: deque[tuple[Mark, Mark]] = deque()

    def __call__(self, tensor: Tensor) -> Tensor:
        """The tensor on the device, for whatever is launched after."""
        if self._stream is None:
            return tensor.to(self._device, non_blocking=True)
        with torch.cuda.stream(self._stream):
            there = tensor.pin_memory().to(self._device, non_blocking=True)
        current = torch.cuda.current_stream(self._device)
        before = mark_on(self._device)
        current.wait_stream(self._stream)
        self._waits.append((before, mark_on(self._device)))
        there.record_stream(current)  # or its memory could be given to the next copy before it was read
        return there

    def take(self) -> float:
        """Seconds that steps waited for copies since it was asked last, as far as the device has come."""
        seconds = 0.0
        while self._waits and self._waits[0][1].query():
            before, after = self._waits.popleft()
            seconds += before.elapsed_time(after) / 1000
        return seconds
