"""In how many parts a batch is encoded, so that the device's memory suffices: measured on a few captions."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from stablerep.methods.interface import Batch
from stablerep.training.distributed import Ranks
from stablerep.training.learner import Learner
from stablerep.training.sharding import bytes_here

_TRIED = 256
"""A trial's captions are one of so many of the batch: they fit where any part of it does."""
_OF_FREE = 0.9  # of a GPU's memory: blocks that are free in pieces are of no use to a large tensor
_COPIES = 4
"""Of the weights, for what is not there before a first step: AdamW's two, buckets of gradients, and room."""

_AHEAD = 2  # batches of images, a byte a value, that are copied to the device while a step is at work


class DeviceMemory(Protocol):
    """A device's memory, as this process may use it."""

    def limit(self) -> int:
        """Bytes that tensors may hold at once, those that are there already included."""

    def held(self) -> int:
        """Bytes that tensors hold now."""

    def peak(self, work: Callable[[], None]) -> int:
        """The most bytes that tensors hold at once while `work` runs."""


def memory_of(device: torch.device) -> DeviceMemory | None:
    """A GPU's; of other devices nothing is known."""
    return CudaMemory(device) if device.type == "cuda" else None


class CudaMemory:
    """Of a GPU, by torch's allocator."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def limit(self) -> int:
        free, _ = torch.cuda.mem_get_info(self._device)
        return int(_OF_FREE * (free + torch.cuda.memory_reserved(self._device)))

    def held(self) -> int:
        return torch.cuda.memory_allocated(self._device)

    def peak(self, work: Callable[[], None]) -> int:
        torch.cuda.reset_peak_memory_stats(self._device)
        work()
        return torch.cuda.max_memory_allocated(self._device)


def parts_that_fit(learner: Learner, batch: Batch, ranks: Ranks, memory: DeviceMemory) -> int:
    """The fewest parts of a rank's batch whose encoding fits into memory, or a few more that are equal.

    They are the same on all ranks.

    What a caption's encoding takes is found from two small trials, the losses are tried on the whole batch;
    activations grow with the captions, all else does not. Compiled blocks run as they are meanwhile, which
    takes more memory. The learner, then without gradients, and the random numbers are left as they were.
    """
    captions = len(batch.labels)
    small = max(1, captions // _TRIED)
    large = min(captions, 3 * small)
    if small == large:
        return 1
    before = {name: buffer.clone() for name, buffer in learner.named_buffers()}
    with torch.random.fork_rng(devices=[ranks.device] if ranks.device.type == "cuda" else []):
        try:
            with torch.compiler.set_stance("force_eager"):
                needs = _try(learner, batch, memory, small, large)
        finally:
            learner.zero_grad()
            with torch.no_grad():
                for name, buffer in learner.named_buffers():
                    buffer.copy_(before[name])
    return equal_parts(captions, ranks.largest(needs.parts(captions, memory.limit())))


def equal_parts(captions: int, fewest: int) -> int:
    """The fewest parts, or a few more that are equal: compiled blocks are compiled again for another size."""
    return next((parts for parts in range(fewest, 2 * fewest) if captions % parts == 0), fewest)


@dataclass(frozen=True)
class _Needs:
    """Bytes that a step takes: for each caption that is encoded at once, and beside that.

    encoding: with a model, its gradients and the batch; losses: of the whole batch, beyond what it is made
    of, and with them what was encoded; encoded: what was encoded and its gradient.
    """

    a_caption: float
    encoding: float
    losses: float
    encoded: float

    def parts(self, captions: int, limit: int) -> int:
        if self.encoding + captions * self.a_caption + self.losses <= limit:
            return 1
        fitting = int((limit - self.encoding - self.encoded) / self.a_caption) if self.a_caption > 0 else 0
        return max(2, -(-captions // fitting)) if fitting > 0 else captions


def _try(learner: Learner, batch: Batch, memory: DeviceMemory, small: int, large: int) -> _Needs:
    of_one: dict[str, Tensor] = {}

    def encode(captions: int) -> None:
        encoded = learner.encode(batch.captions(slice(0, captions)))
        of_one.update({name: value[:, :1].detach() for name, value in encoded.items()})
        learnt = [value for value in encoded.values() if value.requires_grad]
        torch.autograd.backward(learnt, [torch.ones_like(value) for value in learnt])

    def lose() -> None:
        encoded = {name: _random_like(one, len(batch.labels)) for name, one in of_one.items()}
        torch.stack(list(learner.losses(encoded, batch).values())).sum().backward()

    # Gradients are there for all trials, or they would hide what few captions take.
    for parameter in learner.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.zeros_like(parameter)
    encode(small)  # what libraries allocate once is there then
    first, second = memory.peak(lambda: encode(small)), memory.peak(lambda: encode(large))
    a_caption = (second - first) / (large - small)
    held = memory.held()
    losses = memory.peak(lose) - held
    encoded = 2 * len(batch.labels) * sum(one.numel() * one.element_size() for one in of_one.values())
    on_their_way = _AHEAD * batch.views.numel()
    others = first - small * a_caption + _COPIES * bytes_here(learner) + on_their_way
    return _Needs(a_caption, others, losses, encoded)


def _random_like(one: Tensor, captions: int) -> Tensor:
    """Random numbers in place of what encoding gives of so many captions; [k 1 ...] -> [k captions ...]."""
    shape = (one.shape[0], captions, *one.shape[2:])
    return torch.randn(shape, dtype=one.dtype, device=one.device).requires_grad_()
