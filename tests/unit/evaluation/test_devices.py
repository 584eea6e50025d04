"""Encoders that are measured are measured on the GPU, where there is one."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch

from services.trainer.probe import _probe
from stablerep import devices
from stablerep.cli.models import _write_embeddings
from stablerep.cli.probing import _encoder, _measure_texts
from stablerep.devices import choose_device, short_of_memory
from stablerep.errors import InvalidInput
from stablerep.shards import Group, build_tar, commit_shard
from stablerep.storage import open_store


class Moved(Exception):
    """To which device."""


def moving(*_: Any) -> Any:
    """A model of any kind, which says where it is moved."""

    def to(device: torch.device) -> None:
        raise Moved(str(device))

    return SimpleNamespace(model=SimpleNamespace(to=to), to=to)


def probe_as_a_run(store: Any) -> None:
    spec = SimpleNamespace(probe=SimpleNamespace(model="some"), steps=1, run="probe")
    _probe(SimpleNamespace(spec=spec, store=store))


def embeddings(store: Any) -> None:
    commit_shard(store, "one", 0, build_tar([Group(0, "a shoe", (b"jpeg",))]))
    _write_embeddings(SimpleNamespace(), f"{store.url}/datasets/one")


def texts(store: Any) -> None:
    _measure_texts("some", None, [], ["zeroshot"], "auto", SimpleNamespace())


def probe(store: Any) -> None:
    _encoder("some", None, "auto")


@pytest.mark.parametrize("measure", [probe, probe_as_a_run, embeddings, texts])
@pytest.mark.parametrize(("there", "name"), [(True, "cuda"), (False, "cpu")])
def test_what_measures_moves_its_encoder(measure, there, name, tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: there)
    monkeypatch.setattr("stablerep.models.load.load_encoder", moving)
    monkeypatch.setattr("stablerep.training.image_text.load_towers", lambda *_: (moving(), 0))
    with pytest.raises(Moved, match=f"^{name}$"):
        measure(open_store(tmp_path / "store"))


def test_a_device_that_is_not_there_is_refused() -> None:
    assert choose_device("cpu") == torch.device("cpu")
    for name in ("cuda:97", "abacus"):
        with pytest.raises(InvalidInput, match=f"device: {name} cannot be used: "):
            choose_device(name)


@pytest.mark.parametrize(
    ("error", "short"),
    [
        (torch.OutOfMemoryError("HIP out of memory"), True),
        (torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation'"), True),
        (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
        (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
        (RuntimeError("GET was unable to find an engine to execute this computation"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to"), True),
        (torch.AcceleratorError("CUDA error: an illegal memory access was encountered"), False),
        (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
        (RuntimeError("CUDA ran out of memory outside PyTorch's allocator. If this workload"), True),
        (RuntimeError("cannot embed 'a laptop that is out of memory'"), False),
        (ValueError("a caption about out of memory experiences"), False),
    ],
)
def test_memory_is_short_by_whichever_librarys_words(error, short) -> None:
    assert short_of_memory(error) is short
