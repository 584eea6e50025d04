"""Which stream waits for which: told to stand-ins of a GPU's streams, as there is none here."""

from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from stablerep.generation import lanes


class Gpu:
    """Writes down what would be asked of `torch.cuda`, and in which stream."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.said: list[str] = []
        self.retries = 3
        self.current = self.new_stream("denoise")
        names = iter(("text", "decode"))
        for name, value in {
            "Stream": lambda device: self.new_stream(next(names)),
            "current_stream": lambda device: self.current,
            "stream": self.inside,
            "memory_stats": lambda device: {"num_alloc_retries": self.retries},
        }.items():
            monkeypatch.setattr(lanes.torch.cuda, name, value)
        self.lanes = lanes.Lanes(torch.device("cuda:0"))

    def new_stream(self, name: str) -> SimpleNamespace:
        wait = lambda other: self.said.append(f"{name} waits for {other.name}")  # noqa: E731
        return SimpleNamespace(name=name, wait_stream=wait)

    @contextmanager
    def inside(self, stream: SimpleNamespace):
        before, self.current = self.current, stream
        yield
        self.current = before

    def tensor(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(
            record_stream=lambda stream: self.said.append(f"{name} is used in {stream.name}")
        )

    def take(self) -> list[str]:
        said, self.said = self.said, []
        return said


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
