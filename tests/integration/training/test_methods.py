"""Every method as a run: it learns from a dataset, is stopped, goes on with the same data, and exports."""

import threading
from collections.abc import Mapping
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import load

from stablerep.shards.layout import run_key
from stablerep.storage import open_store
from stablerep.training.distributed import Ranks
from stablerep.training.loop import train
from tests.integration.training.test_training import configuration, exported, metrics
from tests.training import write_stripes
from tests.unit.methods.test_methods import OPTIONS, VIT

ALONE = Ranks(0, 1, torch.device("cpu"))
METHODS = ["stablerep_plus", "clip", "mae", "simclr", "synclr"]


class StopAt:
    """Asks to stop once `step` steps are done."""

    def __init__(self, step: int) -> None:
        self.stop, self._step = threading.Event(), step

    def on_start(self, run: str, step: int, steps: int) -> None: ...

    def on_step(self, step: int, views: int, waited: float) -> None:
        if step == self._step:
            self.stop.set()

    def on_loss(self, loss: float) -> None: ...

    def on_metrics(self, metrics: Mapping[str, float]) -> None: ...

    def on_checkpoint(self, seconds: float) -> None: ...


def settings(name: str, steps: int) -> dict[str, Any]:
    return {
        "method": {"name": name, **OPTIONS[name]},
        "encoder": VIT,
        "steps": steps,
        "views_per_batch": 24,
        "checkpoint_every": 7,
        "log_every": 1,
        "optimizer": {"lr": 0.002, "warmup_steps": 3},
    }


@pytest.mark.parametrize("name", METHODS)
def test_a_stopped_run_ends_as_one_left_alone(tmp_path, name):
    url = (tmp_path / "store").as_uri()
    write_stripes(url)
    alone = configuration(url, "alone", **settings(name, 24))
    whole = train(alone, ALONE, threading.Event())
    assert whole is not None
    assert whole["method"] == name
    config = configuration(url, "stopped", **settings(name, 24))
    watcher = StopAt(10)
    assert train(config, ALONE, watcher.stop, watcher) is None
    result = train(config, ALONE, threading.Event())
    assert result is not None
    lines = [[(line["step"], line["loss"]) for line in metrics(c)] for c in (alone, config)]
    assert lines[0] == lines[1]
    assert len(lines[0]) == 24
    assert lines[0][-1][1] < lines[0][0][1]
    for key in ("images_distinct", "groups", "views", "loss"):
        assert result[key] == whole[key], key
    for tensor, value in exported(alone).items():
        assert torch.equal(exported(config)[tensor], value), tensor


@pytest.mark.parametrize("name", METHODS)
def test_what_it_exports_is_a_plain_encoder(tmp_path, name):
    url = (tmp_path / "store").as_uri()
    write_stripes(url)
    config = configuration(url, "short", **settings(name, 2))
    train(config, ALONE, threading.Event())
    store = open_store(url)
    for file in ("config.json", "model.safetensors"):
        (tmp_path / file).write_bytes(store.get(run_key("short", f"export/{file}")))
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True).eval()
    weights = load((tmp_path / "model.safetensors").read_bytes())
    assert set(weights) == set(model.state_dict())
    assert model(torch.zeros(2, 3, 16, 16)).shape == (2, 24)


def test_losses_are_logged_by_name(tmp_path):
    url = (tmp_path / "store").as_uri()
    write_stripes(url)
    config = configuration(url, "plus", **settings("stablerep_plus", 4))
    train(config, ALONE, threading.Event())
    for line in metrics(config):
        assert line["loss"] == pytest.approx(line["loss_contrastive"] + line["loss_image_text"], rel=1e-6)
        assert line["effective_rank"] > 1
