"""The host waits for no GPU during a training step (tests/waits.py)."""

from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch

from stablerep.config.augment import AugmentConfig
from stablerep.data.augment.parameters import UNIFORMS_PER_VIEW, ViewParameters, draw_parameters
from stablerep.data.batches.loader import RankBatch
from stablerep.models.tokenizer import load_tokenizer
from stablerep.runs.config import TrainConfig
from stablerep.training.distributed import Ranks
from stablerep.training.learner import build_learner
from stablerep.training.optimizer import build_optimizer
from stablerep.training.step import Backward, to_batch
from tests.unit.methods.test_methods import CAPTIONS, OPTIONS, configuration
from tests.waits import Waits

META = torch.device("meta")
CASES: list[tuple[str, dict[str, Any]]] = [(name, {}) for name in OPTIONS]
CASES += [(name, {"method.equal_texts": "masked"}) for name in ("stablerep", "stablerep_plus", "clip")]


def test_a_wait_is_found() -> None:
    images = torch.zeros(4, 3, device="meta")
    with Waits() as waits:
        images * 2.0 + 1
        torch.zeros(4, 3).to("meta", non_blocking=True)
    assert waits.found == []
    with Waits() as waits:
        images[[0, 2]]
        torch.tensor([1, 2], device="meta")
        images + torch.tensor([1, 2, 3], device="meta")
        torch.zeros(4, 3).to("meta")
        images.copy_(torch.ones(4, 3))
        images.new_tensor(1.0)
    assert len(waits.found) == 6, waits.found
    with pytest.raises(RuntimeError, match="meta"):
        float(images[0, 0])


def parameters(config: AugmentConfig, views: int) -> ViewParameters:
    uniform = np.random.default_rng(0).random((views, UNIFORMS_PER_VIEW))
    return draw_parameters(config, uniform, np.array([40, 32]))


def share_of(config: TrainConfig, *, augmented: bool) -> RankBatch:
    """A batch as the loader gives it: images of 40 x 32, or views that the CPU has made of them."""
    needs = config.method.needs()
    rows, random = needs.views * CAPTIONS, torch.Generator().manual_seed(0)
    tokens, _ = load_tokenizer()([f"a red shoe number {n}" for n in range(CAPTIONS)])
    local = None if needs.local is None else needs.local
    crops: dict[str, Any] = {}
    if local and augmented:
        shape = (local.number * rows, 3, local.size, local.size)
        crops["local_images"] = torch.zeros(shape, dtype=torch.uint8)
    elif local:
        crops["local_parameters"] = parameters(config.augment, local.number * rows)
    side = (16, 16) if augmented else (40, 32)
    return RankBatch(
        step=0,
        views=needs.views,
        images=torch.randint(256, (rows, 3, *side), dtype=torch.uint8, generator=random),
        labels=torch.tensor([0, 1, 2, 0, 4, 5]),
        label_counts=np.array([2, 1, 1, 2, 1, 1]),
        parameters=parameters(config.augment, rows),
        groups=np.zeros((CAPTIONS, 1), np.int64),
        numbers=np.zeros((CAPTIONS, 1), np.int64),
        tokens=tokens if needs.texts else None,
        noise=torch.rand(rows, 16, generator=random) if needs.noise else None,
        augmented=augmented,
        **crops,
    )


@pytest.mark.parametrize("augmented", [True, False])
@pytest.mark.parametrize(("name", "changed"), CASES)
def test_nothing_of_a_step_is_waited_for(
    name: str, changed: dict[str, Any], augmented: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # refuses the meta device
    config = configuration(name, **changed)
    learner = build_learner(config, torch.device("cpu"), 1).to(META)
    optimizer = build_optimizer(learner, config)
    for group in optimizer.param_groups:
        group["fused"] = False  # one kernel, which the meta device lacks
    backward = Backward(learner, config, Ranks(0, 1, META))
    share = share_of(config, augmented=augmented)
    for _ in range(2):  # what is made once, and kept, may be waited for once
        with Waits() as waits:
            losses, _ = backward(to_batch(share, config, META))
            optimizer.step()
            optimizer.zero_grad()
    assert waits.found == []
    assert {loss.device.type for loss in losses.values()} == {"meta"}
