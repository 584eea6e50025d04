"""Which stream waits for which: told to stand-ins of a GPU's streams, as there is none here."""

import pytest
import torch

from stablerep.generation import lanes
from tests.streams import Streams


class Gpu(Streams):
    """Lanes of a GPU, and how often its memory had to be taken from one for another."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch, lanes, "denoise", "text", "decode")
        self.retries = 3
        monkeypatch.setattr(
            lanes.torch.cuda, "memory_stats", lambda device: {"num_alloc_retries": self.retries}
        )
        self.lanes = lanes.Lanes(torch.device("cuda:0"))


@pytest.fixture
def gpu(monkeypatch: pytest.MonkeyPatch) -> Gpu:
    return Gpu(monkeypatch)


def test_text_waits_for_the_weights_alone_and_denoising_for_the_text(gpu: Gpu) -> None:
    assert gpu.take() == ["text waits for denoise"]
    for _ in range(2):
        with gpu.lanes.text():
            assert gpu.current.name == "text"
    assert gpu.take() == []
    gpu.lanes.wait_for_text([gpu.tensor("states"), gpu.tensor("pooled")])
    assert gpu.take() == ["denoise waits for text", "states is used in denoise", "pooled is used in denoise"]


def test_decoding_waits_for_the_samples_and_nothing_for_it(gpu: Gpu) -> None:
    gpu.take()
    with gpu.lanes.decoding(gpu.tensor("samples")):
        assert gpu.current.name == "decode"
    assert gpu.current.name == "denoise"
    assert gpu.take() == ["decode waits for denoise", "samples is used in decode"]


def test_decoding_stays_in_line_once_memory_was_short(gpu: Gpu) -> None:
    gpu.retries += 1
    gpu.take()
    for _ in range(2):
        with gpu.lanes.decoding(gpu.tensor("samples")):
            assert gpu.current.name == "denoise"
    assert gpu.take() == []
    with gpu.lanes.text():
        assert gpu.current.name == "text"


@pytest.mark.parametrize(
    "off", [lanes.Lanes(torch.device("cpu")), lanes.Lanes(torch.device("cuda"), wanted=False)]
)
def test_without_lanes_nothing_is_asked_of_a_gpu(off: lanes.Lanes) -> None:
    with off.text(), off.decoding(torch.zeros(1)):
        off.wait_for_text([torch.zeros(1)])
