"""A process of a run has a device of its own, or is told that there is none."""

import pytest
import torch

from stablerep.errors import InvalidInput
from stablerep.training import distributed
from stablerep.training.distributed import Ranks, ranks_from_environment


@pytest.mark.parametrize("processes", ["1", "2"])
def test_a_process_without_a_gpu_is_told(processes, monkeypatch):
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "2")
    monkeypatch.setenv("WORLD_SIZE", processes)
    with pytest.raises(InvalidInput, match="processes: process 3 of this machine would have no GPU: it has"):
        ranks_from_environment().__enter__()


def test_a_process_alone_has_the_device_of_its_place(monkeypatch):
    chosen = []
    monkeypatch.setattr(distributed.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(distributed.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(distributed.torch.cuda, "set_device", chosen.append)
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    monkeypatch.setenv("LOCAL_RANK", "1")
    device = torch.device("cuda", 1)
    with ranks_from_environment() as ranks:
        assert ranks == Ranks(0, 1, device)
    assert chosen == [device]
