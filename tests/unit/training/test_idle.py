"""The part of a wait for a batch in which the device had nothing to do."""

from dataclasses import dataclass

import torch

from stablerep.training.idle import Idle, idle_of


@dataclass
class Moment:
    """A mark that the device reaches at `at` seconds, on a clock of its own."""

    at: float
    device: "Device"

    def query(self) -> bool:
        return self.device.now >= self.at

    def elapsed_time(self, end_event: "Moment") -> float:
        return (end_event.at - self.at) * 1000


class Device:
    """A GPU with work until `busy_until`."""

    def __init__(self) -> None:
        self.now = self.busy_until = 0.0
        self.idle = Idle(lambda: Moment(max(self.now, self.busy_until), self))

    def step(self, waited: float, takes: float, host: float = 0.0) -> None:
        """The host waits for a batch, is busy otherwise, and launches a step of `takes` seconds at once."""
        self.now += waited + host
        self.idle.arrived(waited)
        self.busy_until = max(self.now, self.busy_until) + takes
        self.idle.launched()


def test_a_wait_behind_which_the_gpu_works_is_none() -> None:
    device = Device()
    device.step(waited=0.25, takes=1.0)  # of the first batch all is idle
    assert device.idle.take() == 0.25
    device.step(waited=0.75, takes=1.0)  # ready before the first step is over
    assert device.idle.take() == 0.0, "not known yet"
    device.step(waited=2.0, takes=1.0)  # the second ends after 1.25 of them
    assert device.idle.take() == 0.75
    device.step(waited=0.0, takes=1.0, host=3.0)  # idle, but not for want of data
    device.step(waited=0.5, takes=1.0, host=2.0)
    device.now += 1
    assert device.idle.take() == 0.5


def test_without_a_gpu_the_host_waits_for_all_of_it() -> None:
    idle = idle_of(torch.device("cpu"))
    for waited in (0.5, 0.25):
        idle.arrived(waited)
        idle.launched()
    assert idle.take() == 0.75
    assert idle.take() == 0.0
