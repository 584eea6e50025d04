"""`stablerep doctor` says what a machine computes with, and what its GPUs go without."""

import pytest
import torch

from stablerep import doctor


@pytest.fixture
def gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda number: f"NVIDIA {number}")


def compute() -> doctor.Finding:
    (found,) = (each for each in doctor.check_machine() if each.subject == "compute")
    return found


@pytest.mark.usefixtures("gpu")
def test_gpus_that_kernels_can_be_built_for(monkeypatch):
    monkeypatch.setattr(doctor, "missing_to_build", lambda: "")
    assert (compute().level, compute().fix) == ("ok", "")
    assert compute().text.endswith(" cores, GPUs: NVIDIA 0, NVIDIA 1")


@pytest.mark.usefixtures("gpu")
def test_gpus_that_none_can_be_built_for(monkeypatch):
    monkeypatch.setattr(doctor, "missing_to_build", lambda: "there is no C compiler (gcc or clang)")
    assert compute().level == "note"
    assert compute().text.endswith("they run without compiled kernels: there is no C compiler (gcc or clang)")
    assert "docs/performance.md" in compute().fix


def test_a_machine_without(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert "no GPU" in compute().text
