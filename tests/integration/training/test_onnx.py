"""An encoder as ONNX gives the features of the encoder itself, in onnxruntime, for any batch."""

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

from stablerep.config.encoder import EncoderSpec
from stablerep.errors import StableRepError
from stablerep.models import onnx as module
from stablerep.models.load import random_encoder
from stablerep.models.onnx import export_onnx

ENCODERS = {
    "vit": EncoderSpec(
        name="vit_tiny_patch16_224",
        kwargs={"patch_size": 8, "embed_dim": 24, "depth": 2, "num_heads": 2},
        image_size=32,
    ),
    "resnet": EncoderSpec(
        name="resnet18",
        kwargs={"layers": [1, 1, 1, 1], "channels": [8, 8, 16, 16], "stem_width": 8},
        image_size=32,
    ),
}


@pytest.mark.parametrize("name", ENCODERS)
def test_its_features_are_those_of_the_encoder(name, tmp_path):
    encoder = random_encoder(ENCODERS[name], seed=0)
    assert export_onnx(encoder, tmp_path) < 1e-4
    session = onnxruntime.InferenceSession(tmp_path / "model.onnx", providers=["CPUExecutionProvider"])
    for count in (1, 7):
        images = torch.randn(count, 3, 32, 32)
        (found,) = session.run(["features"], {"images": images.numpy()})
        with torch.inference_mode():
            np.testing.assert_allclose(found, encoder.model(images), atol=1e-4)
    told = {entry.key: entry.value for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert told["image_size"] == "32"
    assert told["mean"] == "0.485,0.456,0.406"


def test_one_that_differs_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "TOLERANCE", -1.0)
    with pytest.raises(StableRepError, match="differs from the encoder"):
        export_onnx(random_encoder(ENCODERS["vit"], seed=0), tmp_path)
