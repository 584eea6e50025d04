"""The configuration: presets with the paper's numbers, overrides, and mistakes that are named."""

import pytest
import torch
from torch import nn

from stablerep.config.training import load_train_config, parse_train_config, presets
from stablerep.errors import InvalidInput
from stablerep.training.optimizer import build_optimizer, learning_rate

WHERE = {"run": "file:///data/runs/r", "datasets": ["file:///data/datasets/d"]}


@pytest.mark.parametrize("name", presets())
def test_every_preset_loads_and_survives_json(name):
    config = load_train_config(name, WHERE)
    assert parse_train_config(config.model_dump_json()) == config
    assert config.run_name == "r"
    assert config.store_url == "file:///data"


def test_the_papers_preset_has_the_papers_numbers():
    config = load_train_config("paper_vit_b16_cc12m_1x", WHERE)
    assert config.captions_per_batch == 1376
    assert config.learning_rate == pytest.approx(3.225e-3)
    assert (config.optimizer.betas, config.optimizer.weight_decay) == ((0.9, 0.98), 0.1)
    assert (config.augment.crop_scale, config.augment.jitter) == ((0.08, 1.0), (0.4, 0.4, 0.4, 0.1))
    assert (config.head.hidden, config.head.out, config.temperature) == (4096, 256, 0.1)


def test_simclr_has_equal_views_and_the_same_rate():
    stablerep, simclr = (
        load_train_config("paper_vit_b16_cc12m_1x", WHERE | {"objective": o}) for o in ("stablerep", "simclr")
    )
    assert simclr.views_per_batch == stablerep.views_per_batch
    assert (simclr.captions_per_batch, simclr.views_per_image) == (4128, 2)
    assert simclr.learning_rate == stablerep.learning_rate


def test_the_rate_rises_linearly_and_falls_by_half_a_cosine():
    settings = {"steps": 110, "optimizer": {"lr": 2.0, "warmup_steps": 10}}
    config = load_train_config("demo", WHERE | settings)
    rates = [learning_rate(config, step) for step in (0, 5, 10, 60, 110)]
    assert rates == pytest.approx([0.0, 1.0, 2.0, 1.0, 0.0])


def test_only_matrices_decay():
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4, 2))
    config = load_train_config("demo", WHERE)
    decays = {
        id(p): group["weight_decay"]
        for group in build_optimizer(model, config).param_groups
        for p in group["params"]
    }
    for parameter in model.parameters():
        assert decays[id(parameter)] == (config.optimizer.weight_decay if parameter.ndim >= 2 else 0.0)
    assert torch.tensor([p.ndim for p in model.parameters()]).tolist() == [4, 1, 1, 1, 2, 1]


def test_overrides_are_dotted_and_read_as_yaml():
    config = load_train_config(
        "demo", WHERE | {"optimizer.lr": "3e-3", "augment.crop_scale": "[0.3, 1]", "steps": "7"}
    )
    assert config.optimizer.lr == 0.003
    assert config.augment.crop_scale == (0.3, 1.0)
    assert config.steps == 7


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"stepz": 3}, "stepz"),
        ({"views_per_batch": 30}, "views_per_batch"),
        ({"objective": "simclr", "crops": 1}, "crops"),
        ({"run": "file:///data/somewhere"}, "STORE/runs/NAME"),
        ({"encoder.size": 3}, r"encoder\.size"),
        ({"steps": 0}, "steps"),
        ({"steps.more": 0}, "steps"),
        ({"augment": "["}, r"augment: '\[' is not YAML"),
    ],
)
def test_mistakes_are_named(changed, named):
    with pytest.raises(InvalidInput, match=named):
        load_train_config("demo", WHERE | changed)


def test_an_unknown_preset_lists_the_known():
    with pytest.raises(InvalidInput, match="paper_vit_b16_cc12m_1x"):
        load_train_config("nothing", WHERE)
