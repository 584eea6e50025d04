"""A ViT's blocks are compiled where it pays: on a GPU that kernels can be built for, in a long run."""

from typing import Any

import pytest
import timm
import torch
from torch import nn

from stablerep.runs.config import TrainConfig, load_train_config
from stablerep.training import compiling
from stablerep.training.compiling import compile_blocks

GPU, CPU = torch.device("cuda", 0), torch.device("cpu")
NAMES = ["blocks.0", "blocks.1", "blocks.2"]


def config(**changes: Any) -> TrainConfig:
    asked = {"run": "file:///nowhere/runs/x", "datasets": ["file:///nowhere/datasets/x"], **changes}
    return load_train_config("demo", asked)


def long(**changes: Any) -> TrainConfig:
    return config(steps=10_000, views_per_batch=120, **changes)


def compiled(
    config: TrainConfig, device: torch.device, monkeypatch: pytest.MonkeyPatch, vit: bool = True
) -> list[str]:
    """Names of the modules that were compiled; the encoder itself is "whole"."""
    name = "vit_tiny_patch16_224" if vit else "resnet18"
    encoder = timm.create_model(name, num_classes=0, **({"depth": 3, "img_size": 32} if vit else {}))
    names = {id(module): name or "whole" for name, module in encoder.named_modules()}
    found: list[str] = []
    monkeypatch.setattr(nn.Module, "compile", lambda module: found.append(names[id(module)]))
    compile_blocks(encoder, list(encoder.blocks) if vit else [], config, device)
    return found


@pytest.fixture(autouse=True)
def own_settings():
    """torch's are those of the process."""
    with torch._dynamo.config.patch(suppress_errors=False):
        yield


@pytest.mark.parametrize("build", [True, False])
def test_where_it_pays(build, monkeypatch, capsys):
    monkeypatch.setattr(compiling, "missing_to_build", lambda: "" if build else "there is no C compiler")
    assert compiled(long(), GPU, monkeypatch) == (NAMES if build else [])
    assert torch._dynamo.config.suppress_errors is build
    assert ("no C compiler" in capsys.readouterr().out) is not build
    assert compiled(long(), torch.device("cuda", 1), monkeypatch) == (NAMES if build else [])
    assert capsys.readouterr().out == "", "one line a machine"
    for why in (
        compiled(long(), CPU, monkeypatch),
        compiled(config(steps=10, views_per_batch=120), GPU, monkeypatch),
        compiled(long(), GPU, monkeypatch, vit=False),
        compiled(long(compile=False), GPU, monkeypatch),
    ):
        assert why == []


def test_where_it_was_asked_for(monkeypatch):
    """Whatever the machine: what fails then is an error."""
    monkeypatch.setattr(compiling, "missing_to_build", lambda: "there is no C compiler")
    assert compiled(config(compile=True), CPU, monkeypatch) == NAMES
    assert compiled(config(compile="true"), CPU, monkeypatch, vit=False) == ["whole"]
    assert not torch._dynamo.config.suppress_errors


def test_inside_of_a_checkpoint_the_forward_pass_is_compiled(monkeypatch):
    """torch enters none by itself: with `module.compile()` nothing would be compiled, and nobody told."""
    asked = []
    monkeypatch.setattr(torch, "compile", lambda forward: asked.append(forward) or forward)
    assert compiled(config(compile=True, recompute=True), CPU, monkeypatch) == []
    assert len(asked) == 3


def test_blocks_share_their_code():
    """Else a deep ViT would be compiled block by block, and torch would give up after eight."""
    from torch._dynamo.utils import counters

    encoder = timm.create_model("vit_tiny_patch16_224", num_classes=0, img_size=32)
    torch.compiler.reset()
    counters.clear()
    for block in encoder.blocks:
        block.compile(backend="aot_eager")
    for _ in range(2):
        encoder(torch.randn(2, 3, 32, 32)).sum().backward()
    assert len(encoder.blocks) == 12
    assert counters["stats"]["unique_graphs"] == 1
    torch.compiler.reset()
