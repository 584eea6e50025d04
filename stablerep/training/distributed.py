"""Processes that train together: set up from torchrun's environment, and agreeing on what to do next."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist

from stablerep.errors import InvalidInput, StableRepError


@dataclass(frozen=True)
class Ranks:
    """This process' place among `size`; `agreement` carries small CPU tensors between them."""

    rank: int
    size: int
    device: torch.device
    agreement: Any = None

    @property
    def first(self) -> bool:
        """Whether this process writes for all."""
        return self.rank == 0

    def sum(self, values: list[float]) -> list[float]:
        """The sum of every value over all ranks, in float64."""
        if self.size == 1:
            return values
        tensor = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(tensor, group=self.agreement)
        return tensor.tolist()

    def largest(self, value: int) -> int:
        """The largest of the ranks' values."""
        if self.size == 1:
            return value
        tensor = torch.tensor(value)
        dist.all_reduce(tensor, op=dist.ReduceOp.MAX, group=self.agreement)
        return int(tensor)

    def wait(self) -> None:
        """Returns once every rank is here."""
        if self.size > 1:
            dist.barrier(group=self.agreement)

    @contextmanager
    def together(self) -> Iterator[None]:
        """What one rank raises inside, every rank raises at its end, which none passes before all are there.

        Else the others would wait for the one that failed, and end with an error that says nothing.
        """
        own: StableRepError | None = None
        try:
            yield
        except StableRepError as error:
            own = error
        failures = [own]
        if self.size > 1:
            failures = [None] * self.size
            dist.all_gather_object(failures, own, group=self.agreement)
        for failure in failures:
            if failure is not None:
                raise failure


@contextmanager
def ranks_from_environment() -> Iterator[Ranks]:
    """One process, or as many as torchrun started: NCCL where each has a GPU, else gloo on the CPU.

    Raises InvalidInput where there are GPUs, but fewer than processes.
    """
    cuda = torch.cuda.is_available()
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    device = torch.device("cuda", local_rank) if cuda else torch.device("cpu")
    if cuda:
        if local_rank >= (there := torch.cuda.device_count()):
            message = (
                f"process {local_rank + 1} of this machine would have no GPU: it has {there}; "
                "start no more processes than that"
            )
            raise InvalidInput(message, field="processes")
        torch.cuda.set_device(device)
    if int(os.environ.get("WORLD_SIZE", "1")) == 1:
        yield Ranks(0, 1, device)
        return
    dist.init_process_group("nccl" if cuda else "gloo", device_id=device if cuda else None)
    try:
        agreement = dist.new_group(backend="gloo") if cuda else dist.group.WORLD
        yield Ranks(dist.get_rank(), dist.get_world_size(), device, agreement)
    finally:
        dist.destroy_process_group()
