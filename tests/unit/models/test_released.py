"""Checkpoints in the layout of StableRep's release: the same encoder, and nothing that runs code."""

import argparse
import pickle

import pytest
import timm
import torch

from stablerep.errors import InvalidInput
from stablerep.models.load import load_encoder


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
