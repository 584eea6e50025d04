"""Checkpoints in the layout of StableRep's release: the same encoder, and nothing that runs code."""

import argparse
import math
import pickle

import pytest
import timm
import torch

from stablerep.errors import InvalidInput
from stablerep.models.load import load_encoder
from stablerep.models.tokenizer import load_tokenizer
from stablerep.training.image_text import load_towers

VOCABULARY = 49_408


@pytest.fixture(scope="module")
def vit() -> torch.nn.Module:
    torch.manual_seed(0)
    return timm.create_model("vit_small_patch16_224", num_classes=0).eval()


def release(vit: torch.nn.Module, prefix: str = "visual.") -> dict[str, object]:
    state = {f"{prefix}{name}": value for name, value in vit.state_dict().items()}
    state |= {"image_mlp.0.weight": torch.zeros(4, 384), "logit_scale": torch.tensor(1.0)}
    arguments = argparse.Namespace(model="small", lr=0.1)
    return {"model": state, "optimizer": {}, "epoch": 15, "scaler": {"scale": 1.0}, "args": arguments}


@pytest.mark.parametrize("prefix", ["visual.", "module.visual."])
def test_a_released_checkpoint_is_the_encoder_that_it_holds(vit, prefix, tmp_path):
    torch.save(release(vit, prefix), tmp_path / "cc12m_3x.pth")
    encoder = load_encoder(str(tmp_path / "cc12m_3x.pth"))
    assert (encoder.image_size, encoder.crop_ratio) == (224, 0.875)
    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        assert torch.equal(encoder.model(images), vit.forward_features(images)[:, 0])


def test_other_files_are_named(vit, tmp_path):
    torch.save({"model": {"weight": torch.zeros(2)}}, tmp_path / "other.pt")
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04 and no more")
    lacking = release(vit)
    del lacking["model"]["visual.norm.weight"]
    torch.save(lacking, tmp_path / "lacking.pt")
    for name, why in (
        ("other.pt", "holds no ViT"),
        ("torn.pth", "is no checkpoint"),
        ("lacking.pt", "norm.weight"),
    ):
        with pytest.raises(InvalidInput, match=why):
            load_encoder(str(tmp_path / name))


class Runs:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


def test_a_pickle_that_would_run_code_does_not(tmp_path):
    (tmp_path / "hostile.pth").write_bytes(pickle.dumps({"model": Runs()}))
    with pytest.raises(InvalidInput, match="is no checkpoint"):
        load_encoder(str(tmp_path / "hostile.pth"))


def text_tower(random: torch.Generator, *, width: int, layers: int, out: int) -> dict[str, torch.Tensor]:
    """The release's names and shapes of a text tower, of two projections and a scale."""

    def drawn(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=random) * 0.05

    state = {
        "token_embedding.weight": drawn(VOCABULARY, width),
        "positional_embedding": drawn(77, width),
        "ln_final.weight": 1 + drawn(width),
        "ln_final.bias": drawn(width),
        "image_projection": drawn(384, out),
        "text_projection": drawn(width, out),
        "logit_scale": torch.tensor(3.0),
    }
    for layer in range(layers):
        block = f"transformer.resblocks.{layer}."
        state |= {
            f"{block}attn.in_proj_weight": drawn(3 * width, width),
            f"{block}attn.in_proj_bias": drawn(3 * width),
            f"{block}attn.out_proj.weight": drawn(width, width),
            f"{block}attn.out_proj.bias": drawn(width),
            f"{block}mlp.c_fc.weight": drawn(4 * width, width),
            f"{block}mlp.c_fc.bias": drawn(4 * width),
            f"{block}mlp.c_proj.weight": drawn(width, 4 * width),
            f"{block}mlp.c_proj.bias": drawn(width),
            **{f"{block}ln_{n}.{part}": 1 + drawn(width) for n in (1, 2) for part in ("weight", "bias")},
        }
    return state


def embedded_by_hand(state: dict[str, torch.Tensor], tokens: list[int], layers: int) -> torch.Tensor:
    """One text through the release's tower, a token at a time, which sees those before it."""
    weights = {name: value.double() for name, value in state.items()}
    width = weights["ln_final.weight"].numel()

    def norm(x: torch.Tensor, name: str) -> torch.Tensor:
        centred = x - x.mean(-1, keepdim=True)
        scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
        return scaled * weights[f"{name}.weight"] + weights[f"{name}.bias"]

    x = weights["token_embedding.weight"][tokens] + weights["positional_embedding"][: len(tokens)]
    for layer in range(layers):
        block = f"transformer.resblocks.{layer}."
        entered = norm(x, f"{block}ln_1") @ weights[f"{block}attn.in_proj_weight"].T
        query, key, value = (entered + weights[f"{block}attn.in_proj_bias"]).split(width, dim=-1)
        rows = []
        for place in range(len(tokens)):
            heads = []
            for head in range(width // 64):
                part = slice(64 * head, 64 * head + 64)
                scores = key[: place + 1, part] @ query[place, part] / 8
                heads.append(scores.softmax(0) @ value[: place + 1, part])
            rows.append(torch.cat(heads))
        x = x + torch.stack(rows) @ weights[f"{block}attn.out_proj.weight"].T
        x = x + weights[f"{block}attn.out_proj.bias"]
        inner = (
            norm(x, f"{block}ln_2") @ weights[f"{block}mlp.c_fc.weight"].T + weights[f"{block}mlp.c_fc.bias"]
        )
        inner = inner / (1 + (-1.702 * inner).exp())
        x = x + inner @ weights[f"{block}mlp.c_proj.weight"].T + weights[f"{block}mlp.c_proj.bias"]
    return norm(x, "ln_final")[tokens.index(VOCABULARY - 1)] @ weights["text_projection"]


def test_both_towers_of_a_released_checkpoint(vit, tmp_path):
    state = text_tower(torch.Generator().manual_seed(0), width=128, layers=2, out=16)
    content = release(vit)
    content["model"] |= state
    torch.save(content, tmp_path / "plus.pth")
    towers, _ = load_towers(str(tmp_path / "plus.pth"))
    assert float(towers.tower.scale().detach()) == pytest.approx(math.exp(3))

    texts = ["a photo of a cat", "two red shoes on a table"]
    tokens, _ = load_tokenizer()(texts)
    rows = [row[: row.index(VOCABULARY - 1) + 1] for row in tokens.tolist()]
    wanted = torch.stack([embedded_by_hand(state, row, layers=2) for row in rows])
    torch.testing.assert_close(towers.texts(texts).double(), wanted, rtol=1e-4, atol=1e-5)

    images = torch.randn(2, 3, 224, 224)
    with torch.inference_mode():
        wanted = vit.forward_features(images)[:, 0] @ state["image_projection"]
    torch.testing.assert_close(towers.images(images), wanted, rtol=1e-4, atol=1e-5)


def test_released_checkpoints_without_a_linear_text_tower_are_named(vit, tmp_path):
    torch.save(release(vit), tmp_path / "images.pth")
    with pytest.raises(InvalidInput, match="no text tower"):
        load_towers(str(tmp_path / "images.pth"))
    content = release(vit)
    content["model"]["image_projection.layer1.weight"] = torch.zeros(4, 384)
    torch.save(content, tmp_path / "mlp.pth")
    with pytest.raises(InvalidInput, match="by MLPs"):
        load_towers(str(tmp_path / "mlp.pth"))
