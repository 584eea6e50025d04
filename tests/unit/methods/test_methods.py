"""Every method: it trains, is exact in parts, and another one is a class and a line in the table."""

import subprocess
import sys
from collections.abc import Mapping
from typing import Any, Literal

import pytest
import torch
from torch import Tensor, nn

from stablerep.errors import InvalidInput
from stablerep.methods import Batch, MethodConfig, Needs, Parts
from stablerep.methods.table import METHODS
from stablerep.models.image_text import ImageTextTower
from stablerep.models.tokenizer import load_tokenizer
from stablerep.runs.config import TrainConfig, load_train_config
from stablerep.training.distributed import Ranks
from stablerep.training.learner import Learner, build_learner
from stablerep.training.step import Backward

WHERE = {"run": "file:///data/runs/r", "datasets": ["file:///data/datasets/d"]}
ALONE = Ranks(0, 1, torch.device("cpu"))
VIT = {
    "name": "vit_tiny_patch16_224",
    "kwargs": {
        "patch_size": 4,
        "embed_dim": 24,
        "depth": 2,
        "num_heads": 2,
        "dynamic_img_size": True,
    },
    "image_size": 16,
}
SMALL_TEXT = {"layers": 1, "width": 16, "heads": 2, "out": 12}
OPTIONS: dict[str, dict[str, Any]] = {
    "stablerep": {"images_per_caption": 3},
    "stablerep_plus": {"images_per_caption": 3, "text": SMALL_TEXT},
    "simclr": {},
    "clip": {"text": SMALL_TEXT},
    "synclr": {
        "images_per_caption": 2,
        "local": {"number": 2, "size": 8},
        "patches": {"prototypes": 12, "hidden": 16, "bottleneck": 8},
    },
    "mae": {"decoder": {"layers": 1, "width": 16, "heads": 2}},
}
CAPTIONS = 6


def configuration(name: str, **changed: Any) -> TrainConfig:
    views = METHODS[name].model_validate({"name": name, **OPTIONS[name]}).needs().views
    settings = {
        "method": {"name": name, **OPTIONS[name]},
        "views_per_batch": views * CAPTIONS,
        "encoder": VIT,
        "head": {"hidden": 16, "out": 8},
        "precision": "float32",
    }
    return load_train_config("demo", WHERE | settings | changed)


def batch_of(
    config: TrainConfig, dtype: torch.dtype = torch.float32, seed: int = 0, captions: int = CAPTIONS
) -> Batch:
    generator = torch.Generator().manual_seed(seed)
    needs = config.method.needs()
    number, patches = needs.views, 16
    shape = (number * captions, 3, 16, 16)
    tokens, _ = load_tokenizer()([f"a red shoe number {n}" for n in range(captions)])
    labels = torch.arange(captions)
    labels[3] = 0
    return Batch(
        number=number,
        views=torch.randn(shape, dtype=dtype, generator=generator),
        labels=labels,
        tokens=tokens if needs.texts else None,
        noise=torch.rand(number * captions, patches, generator=generator) if needs.noise else None,
        **local_crops(needs, captions, dtype, generator),
    )


def local_crops(
    needs: Needs, captions: int, dtype: torch.dtype, generator: torch.Generator
) -> dict[str, Any]:
    if needs.local is None:
        return {}
    number, size = needs.views * needs.local.number, needs.local.size
    local = torch.randn(number * captions, 3, size, size, dtype=dtype, generator=generator)
    return {"local": local, "local_number": number}


def gradients(learner: Learner) -> dict[str, Tensor]:
    return {name: p.grad for name, p in learner.named_parameters() if p.grad is not None}


def test_the_table_has_a_test_for_each():
    assert set(OPTIONS) == set(METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_every_part_is_trained_and_the_loss_falls(name):
    config = configuration(name)
    learner = build_learner(config, torch.device("cpu"), 1)
    backward = Backward(learner, config, ALONE)
    optimizer = torch.optim.AdamW([p for p in learner.parameters() if p.requires_grad], lr=2e-3)
    batch = batch_of(config)
    losses = []
    for step in range(30):
        found, features = backward(batch)
        if step == 0:
            trained = [(n, p) for n, p in learner.named_parameters() if p.requires_grad]
            never = {n for n, p in trained if p.grad is None or not p.grad.any()}
            # Softmax and what follows it do not feel these: attention's key bias, a bias before a norm.
            assert {n for n in never if not n.endswith(("bias", "in_proj_bias"))} == set()
            assert features.shape == (batch.number, CAPTIONS, 24)
        losses.append(sum(loss.item() for loss in found.values()))
        optimizer.step()
        optimizer.zero_grad()
        config.method.after_step(learner, step / 30)
    assert losses[-1] < losses[0] - 0.1, losses


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("parts", [2, 4])
def test_encoded_in_parts_has_the_gradients_of_the_whole(name, parts):
    """In float64, to 1e-9: with 4 parts of 6 captions the last one is shorter."""
    found = []
    for number in (1, parts):
        config = configuration(name, encode_parts=number)
        learner = build_learner(config, torch.device("cpu"), 1).double()
        losses, features = Backward(learner, config, ALONE)(batch_of(config, torch.float64))
        found.append((losses, features, gradients(learner)))
    (whole, features, wanted), (in_parts, features_in_parts, given) = found
    assert whole.keys() == in_parts.keys()
    for loss, value in whole.items():
        torch.testing.assert_close(in_parts[loss], value, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(features_in_parts, features, rtol=1e-9, atol=1e-9)
    assert wanted.keys() == given.keys()
    for parameter, value in wanted.items():
        # timm interpolates positions for small crops in float32.
        bound = 1e-6 if (name, parameter) == ("synclr", "encoder.pos_embed") else 1e-9
        torch.testing.assert_close(given[parameter], value, rtol=bound, atol=bound, msg=parameter)


def test_dropout_in_parts_draws_the_same_numbers_twice():
    """With dropout, the gradient is that of the very loss that was reported."""
    encoder = {**VIT, "kwargs": {**VIT["kwargs"], "proj_drop_rate": 0.3}}
    config = configuration("stablerep", encode_parts=3, encoder=encoder)
    learner = build_learner(config, torch.device("cpu"), 1).double()
    backward, batch = Backward(learner, config, ALONE), batch_of(config, torch.float64)

    def at(offset: float) -> float:
        with torch.no_grad():
            for parameter, direction in zip(learner.parameters(), directions, strict=True):
                parameter += offset * direction
        learner.zero_grad()
        torch.manual_seed(7)
        losses, _ = backward(batch)
        with torch.no_grad():
            for parameter, direction in zip(learner.parameters(), directions, strict=True):
                parameter -= offset * direction
        return losses["contrastive"].item()

    directions = [torch.zeros_like(p) for p in learner.parameters()]
    at(0.0)
    given = [torch.zeros_like(p) if p.grad is None else p.grad.clone() for p in learner.parameters()]
    directions = [torch.randn_like(p) for p in learner.parameters()]
    slope = sum(float((g * d).sum()) for g, d in zip(given, directions, strict=True))
    measured = (at(1e-6) - at(-1e-6)) / 2e-6
    assert measured == pytest.approx(slope, rel=1e-4)


def test_an_encoder_with_batch_norm_cannot_be_encoded_in_parts():
    config = load_train_config("demo", WHERE | {"encode_parts": 2})
    learner = build_learner(config, torch.device("cpu"), 1)
    with pytest.raises(InvalidInput, match="batch norm"):
        Backward(learner, config, ALONE)


def test_mae_wants_a_vit():
    with pytest.raises(InvalidInput, match="vit_base_patch16_224"):
        build_learner(load_train_config("demo", WHERE | {"method": "mae"}), torch.device("cpu"), 1)


def test_mae_hides_three_quarters_and_never_sees_them():
    config = configuration("mae")
    learner = build_learner(config, torch.device("cpu"), 1).eval()
    batch = batch_of(config)
    order = batch.noise.argsort(1)
    kept = order[:, :4].sort(1).values
    changed = batch.views.clone()
    for row in range(len(changed)):
        for patch in range(16):
            if patch not in kept[row].tolist():
                y, x = divmod(patch, 4)
                changed[row, :, 4 * y : 4 * y + 4, 4 * x : 4 * x + 4] = 9.0
    other = Batch(number=1, views=changed, labels=batch.labels, noise=batch.noise)
    with torch.no_grad():
        torch.testing.assert_close(
            learner.encode(batch)["features"], learner.encode(other)["features"], rtol=0, atol=0
        )
        assert not torch.allclose(learner.encode(batch)["pixels"], learner.encode(other)["pixels"])


def test_the_scale_of_images_and_texts_starts_at_clips_and_stays_below_a_hundred():
    config = configuration("clip")
    learner = build_learner(config, torch.device("cpu"), 1)
    assert float(learner.image_text.scale().detach()) == pytest.approx(1 / 0.07)
    learner.image_text.log_scale.data.fill_(50.0)
    config.method.after_step(learner, 0.5)
    assert float(learner.image_text.scale().detach()) == pytest.approx(100)


def test_tokens_are_clips_and_long_texts_are_cut_and_counted():
    tokens, cut = load_tokenizer()(["a photo of a cat", "word " * 200, ""])
    assert tokens.shape == (3, 77)
    assert tokens[0, :8].tolist() == [49406, 320, 1125, 539, 320, 2368, 49407, 0]
    assert cut == 1
    assert tokens[1, -1] == 49407
    assert tokens[2, :3].tolist() == [49406, 49407, 0]


class Constant(MethodConfig):
    """Draws the features towards one."""

    name: Literal["constant"] = "constant"
    target: float = 1.0

    def needs(self) -> Needs:
        return Needs(by_image=True)

    def build(self, parts: Parts) -> dict[str, nn.Module]:
        return {"encoder": parts.encoder}

    def encode(self, modules: Any, batch: Batch) -> dict[str, Tensor]:
        return {"features": modules.encoder(batch.views)[None]}

    def losses(self, modules: Any, encoded: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"distance": (encoded["features"] - self.target).square().mean()}


def test_another_method_is_a_class_and_a_line_in_the_table(monkeypatch):
    monkeypatch.setitem(METHODS, "constant", Constant)
    config = load_train_config("demo", WHERE | {"method": "constant", "method.target": "2.5"})
    assert config.method == Constant(target=2.5)
    assert TrainConfig.model_validate_json(config.model_dump_json()) == config
    learner = build_learner(config, torch.device("cpu"), 1)
    batch = Batch(number=1, views=torch.zeros(4, 3, 28, 28), labels=torch.arange(4))
    losses, _ = Backward(learner, config, ALONE)(batch)
    assert float(losses["distance"]) == pytest.approx(2.5**2, rel=0.5)


def test_a_method_that_lacks_a_part_cannot_be_made():
    class Half(MethodConfig):
        name: Literal["half"] = "half"

    with pytest.raises(TypeError, match="abstract"):
        Half()


def test_methods_are_known_without_torch():
    """The gateway checks configurations and has no torch."""
    program = "import stablerep.runs.config, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_short_texts_have_the_embeddings_that_padded_ones_have():
    torch.manual_seed(0)
    tower = ImageTextTower(8, layers=2, text_width=16, heads=2, out=6, vocabulary=49_408).double()
    tokens, _ = load_tokenizer()(["a red shoe", "a photo of a very long coat", ""])
    assert tokens.shape == (3, 9)
    padded = torch.nn.functional.pad(tokens, (0, 77 - 9))
    with torch.no_grad():
        whole = tower.tower(padded)  # open_clip's own forward pass
        assert torch.allclose(tower.texts(tokens), whole, atol=1e-12)
        assert torch.allclose(tower.texts(padded), whole, atol=1e-12)


def test_the_teachers_temperature_rises_over_its_first_steps_and_is_kept():
    config = configuration("synclr", **{"method.patches.teacher_warmup": 0.1})
    learner = build_learner(config, torch.device("cpu"), 1)
    found = [float(learner.prototypes.teacher_temperature)]
    for done in (0.05, 0.1, 0.6):
        config.method.after_step(learner, done)
        found.append(float(learner.prototypes.teacher_temperature))
    assert found == pytest.approx([0.04, 0.055, 0.07, 0.07])
    assert "prototypes.teacher_temperature" in learner.state_dict()
