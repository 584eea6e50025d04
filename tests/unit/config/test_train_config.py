"""The configuration: presets with the paper's numbers, overrides, and mistakes that are named."""

import pytest
import torch
from torch import nn

from stablerep.errors import InvalidInput
from stablerep.methods.clip import Clip
from stablerep.methods.interface import Needs
from stablerep.methods.simclr import SimCLR
from stablerep.methods.stablerep import StableRep
from stablerep.runs.config import load_train_config, parse_train_config, presets
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
    assert (config.head.hidden, config.head.out) == (4096, 256)
    assert config.method == StableRep(images_per_caption=6, temperature=0.1)


def test_overrides_are_left_as_they_are():
    overrides = {"method": {"name": "stablerep", "images_per_caption": 4}, "method.temperature": 0.2}
    load_train_config("demo", WHERE | overrides)
    assert overrides["method"] == {"name": "stablerep", "images_per_caption": 4}


def test_a_preset_may_extend_another(tmp_path):
    file = tmp_path / "mine.yaml"
    file.write_text("extends: paper_vit_b16_cc12m_1x\nsteps: 7\noptimizer: {lr: 0.5}\nmethod: {name: clip}\n")
    mine, paper = load_train_config(file, WHERE), load_train_config("paper_vit_b16_cc12m_1x", WHERE)
    changed = paper.model_dump() | {
        "steps": 7,
        "method": Clip().model_dump(),
        "optimizer": paper.optimizer.model_dump() | {"lr": 0.5},
    }
    assert mine.model_dump() == changed
    file.write_text("extends: nothing\n")
    with pytest.raises(InvalidInput, match="extends: no preset 'nothing'"):
        load_train_config(file, WHERE)


@pytest.mark.parametrize("name", [name for name in presets() if name.endswith("x")])
def test_presets_see_as_many_views_as_their_schedule(name):
    """REFERENCE 2.1: 0.90, 1.87 and 2.77 billion images for 1x, 2x and 3x."""
    config = load_train_config(name, WHERE)
    billions = {"1x": 0.90, "2x": 1.87, "3x": 2.77}[name.rpartition("_")[2]]
    assert config.steps * config.views_per_batch / 1e9 == pytest.approx(billions, abs=0.02)
    epochs = {"cc12m": 10.0e6, "redcaps": 11.6e6}
    wanted = {
        "cc12m_1x": 15,
        "cc12m_2x": 31,
        "cc12m_3x": 46,
        "redcaps_1x": 13,
        "redcaps_2x": 27,
        "redcaps_3x": 40,
    }
    for schedule, passes in wanted.items():
        if name.endswith(schedule) and name.startswith("paper"):
            captions = epochs[schedule.partition("_")[0]]
            assert config.steps * config.captions_per_batch / captions == pytest.approx(passes, abs=0.4)


def test_simclr_has_equal_views_and_the_same_rate():
    stablerep, simclr = (
        load_train_config("paper_vit_b16_cc12m_1x", WHERE | {"method": o}) for o in ("stablerep", "simclr")
    )
    assert simclr.views_per_batch == stablerep.views_per_batch
    assert simclr.captions_per_batch == 4128
    assert simclr.method.needs() == Needs(images=1, crops=2, by_image=True)
    assert simclr.learning_rate == stablerep.learning_rate


def test_another_method_or_encoder_comes_with_its_own_defaults():
    clip = load_train_config("demo", WHERE | {"method": "clip"})
    assert clip.method.model_dump() == Clip().model_dump()
    assert clip.encoder == load_train_config("demo", WHERE).encoder
    other = load_train_config("demo", WHERE | {"encoder.name": "vit_tiny_patch16_224"})
    assert (other.encoder.name, other.encoder.kwargs, other.encoder.image_size) == (
        "vit_tiny_patch16_224",
        {},
        28,
    )
    same = load_train_config("demo", WHERE | {"encoder.name": "resnet18", "method.name": "stablerep"})
    assert same == load_train_config("demo", WHERE)
    for first, second in (("method", "method.temperature"), ("method.temperature", "method")):
        changes = {"method": {"name": "simclr", "crops": 3}, "method.temperature": "0.2"}
        ordered = {first: changes[first], second: changes[second]}
        assert load_train_config("demo", WHERE | ordered | {"views_per_batch": 24}).method == SimCLR(
            crops=3, temperature=0.2
        )
    own = load_train_config("demo", WHERE | {"method.temperature": "0.2", "method": "simclr"})
    assert own.method.model_dump() == {
        "name": "simclr",
        "images_per_caption": 1,
        "crops": 2,
        "temperature": 0.2,
        "equal_texts": "positive",
    }


@pytest.mark.parametrize(
    ("flat", "method"),
    [
        ({"objective": "simclr", "images_per_caption": 6, "crops": None, "temperature": 0.1}, SimCLR()),
        (
            {"objective": "stablerep", "images_per_caption": 4, "crops": 2, "temperature": 0.2},
            StableRep(images_per_caption=4, crops=2, temperature=0.2),
        ),
    ],
)
def test_the_configuration_of_a_run_from_before_methods_had_options_is_read(flat, method):
    assert parse_train_config({**WHERE, **flat, "steps": 3, "views_per_batch": 24}).method == method


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
        ({"method": "simclr", "method.crops": 1}, r"method: .*crops"),
        ({"method.temperature": -1}, r"method\.temperature"),
        ({"method": "none"}, "there are stablerep"),
        ({"method.warmth": 1}, r"method\.warmth"),
        ({"images_per_caption": 3}, r"method\.images_per_caption"),
        ({"objective": "simclr"}, "method=NAME"),
        ({"views_per_batch": 4}, "one caption"),
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
