"""Which stream waits for which, and how long: told to stand-ins of a GPU's streams, as there is none here."""

from types import SimpleNamespace

import pytest
import torch

from stablerep.training import transfer as transfers
from stablerep.training.reporter import DataWait
from stablerep.training.transfer import Transfer
from tests.streams import Streams


class Gpu(Streams):
    """A GPU whose marks are reached when a test says so."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__(monkeypatch, transfers, "step", "copy")
        self.marks: list[SimpleNamespace] = []
        monkeypatch.setattr(transfers, "mark_on", lambda device: self.mark())

    def mark(self) -> SimpleNamespace:
        self.said.append(f"a mark in {self.current.name}")
        mark = SimpleNamespace(at=None)
        mark.query = lambda: mark.at is not None
        mark.elapsed_time = lambda end: 1000 * (end.at - mark.at)
        self.marks.append(mark)
        return mark

    def images(self) -> SimpleNamespace:
        def to(device: torch.device, *, non_blocking: bool) -> SimpleNamespace:
            assert non_blocking
            self.said.append(f"copied in {self.current.name}")
            return self.tensor("copy")

        return SimpleNamespace(pin_memory=lambda: SimpleNamespace(to=to))


def test_a_copy_waits_for_no_step_and_a_step_for_its_copy(monkeypatch) -> None:
    gpu = Gpu(monkeypatch)
    transfer = Transfer(torch.device("cuda:0"))
    assert gpu.said == [], "the stream of copies waits for nothing"
    transfer(gpu.images())
    assert gpu.said == [
        "copied in copy",
        "a mark in step",
        "step waits for copy",
        "a mark in step",
        "copy is used in step",
    ]


def test_what_steps_wait_for_copies_is_known_when_the_device_is_there(monkeypatch) -> None:
    gpu = Gpu(monkeypatch)
    transfer = Transfer(torch.device("cuda:0"))
    for _ in range(2):
        transfer(gpu.images())
    assert transfer.take() == 0
    first, second = gpu.marks[:2], gpu.marks[2:]
    first[0].at, first[1].at = 1.0, 1.25
    assert transfer.take() == 0.25
    second[0].at = 2.0
    assert transfer.take() == 0
    second[1].at = 2.5
    assert transfer.take() == 0.5
    assert transfer.take() == 0


def test_where_there_is_no_gpu_nothing_is_waited_for() -> None:
    transfer = Transfer(torch.device("cpu"))
    images = torch.zeros(2, 3)
    assert transfer(images) is images
    assert transfer.take() == 0


@pytest.mark.parametrize(
    ("made", "transferred", "words"),
    [
        (1.0, 0.5, ", 15% of the time waiting for data (mostly decode)"),
        (0.5, 1.0, ", 15% of the time waiting for data (mostly transfer)"),
        (0.1, 0.0, ""),
    ],
)
def test_a_wait_is_told_with_its_cause(made, transferred, words) -> None:
    wait = DataWait()
    assert wait.add(made, 0.0, {"read": 3.0, "decode": 5.0}) == made
    assert wait.add(0.0, transferred, {"read": 1.0}) == transferred
    metrics, told = wait.take(10)
    assert told == words
    assert metrics == {
        "data_wait": pytest.approx((made + transferred) / 10),
        "read_seconds": 4.0,
        "decode_seconds": 5.0,
        "transfer_seconds": transferred,
    }
    again, told = wait.take(10)
    assert (again["data_wait"], again["transfer_seconds"], told) == (0, 0, "")
