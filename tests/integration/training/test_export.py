"""An export is plain timm: another process, without this package, computes the same features from it."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from timm.models import save_for_hf

from stablerep.config.encoder import EncoderSpec
from stablerep.errors import InvalidInput, NotFound
from stablerep.evaluation.features import encode
from stablerep.models.export import export_encoder
from stablerep.models.load import load_encoder, random_encoder
from stablerep.models.sync_batch_norm import convert
from stablerep.storage import open_store

RESNET = EncoderSpec(
    name="resnet18",
    kwargs={"layers": [1, 1, 1, 1], "channels": [32, 64, 128, 192], "stem_width": 16, "stem_type": ""},
    image_size=28,
)
VIT = EncoderSpec(
    name="vit_tiny_patch16_224",
    kwargs={"patch_size": 7, "embed_dim": 96, "depth": 2, "num_heads": 3, "global_pool": "avg"},
    image_size=28,
)
# Run with -S, so that no .pth file puts a checkout on the path; an installed package is barred as well.
PLAIN_TIMM = """
import sys
sys.path += sys.argv[4:]
sys.modules["stablerep"] = None
import numpy, timm, torch
inputs = torch.from_numpy(numpy.load(sys.argv[1]))
for folder in sys.argv[2:4]:
    model = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    config = timm.data.resolve_model_data_config(model)
    assert tuple(config["input_size"]) == (3, 28, 28) and config["crop_pct"] == 0.875, config
    assert tuple(config["mean"]) == (0.4, 0.5, 0.6), config
    with torch.inference_mode():
        numpy.save(f"{folder}/features.npy", model(inputs).numpy())
"""


def trained(spec: EncoderSpec) -> torch.nn.Module:
    """Weights and running statistics that no fresh model has."""
    model = random_encoder(spec, seed=1).model
    model.train()
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for _ in range(5):
            model(torch.randn(16, 3, 28, 28, generator=random) + 0.3)
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn(parameter.shape, generator=random))
    return model.eval()


def test_a_process_without_this_package_computes_the_same_features(tmp_path: Path) -> None:
    models = {spec.name: (spec, trained(spec)) for spec in (RESNET, VIT)}
    inputs = torch.randn(8, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    np.save(tmp_path / "inputs.npy", inputs.numpy())
    for name, (spec, model) in models.items():
        export_encoder(model, spec, tmp_path / name, mean=(0.4, 0.5, 0.6))
    arguments = [str(tmp_path / name) for name in ("inputs.npy", *models)]
    packages = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    done = subprocess.run(
        [sys.executable, "-S", "-P", "-c", PLAIN_TIMM, *arguments, *packages],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        env={name: value for name, value in os.environ.items() if name != "PYTHONPATH"},
    )
    assert done.returncode == 0, done.stderr
    for name, (spec, model) in models.items():
        with torch.inference_mode():
            expected = model(inputs).numpy()
            fresh = random_encoder(spec, seed=5).model(inputs).numpy()
        found = np.load(tmp_path / name / "features.npy")
        np.testing.assert_allclose(found, expected, atol=1e-5)
        assert np.abs(found - fresh).max() > 1e-2


def test_an_encoder_with_batch_norm_over_ranks_exports_as_plain_timm(tmp_path: Path) -> None:
    model = trained(RESNET)
    expected = model(torch.ones(2, 3, 28, 28))
    export_encoder(convert(model), RESNET, tmp_path)
    torch.testing.assert_close(load_encoder(str(tmp_path)).model(torch.ones(2, 3, 28, 28)), expected)


def test_an_export_is_found_as_a_folder_a_run_folder_and_a_run_in_a_store(
    store_url: str, tmp_path: Path
) -> None:
    model = trained(RESNET)
    export_encoder(model, RESNET, tmp_path / "run" / "export", mean=(0.4, 0.5, 0.6), crop_ratio=1.0)
    run = f"{store_url}/runs/first"
    store = open_store(run)
    for file in (tmp_path / "run" / "export").iterdir():
        store.put(f"export/{file.name}", file)
    inputs = torch.randn(4, 3, 28, 28, generator=torch.Generator().manual_seed(2))
    for name in (str(tmp_path / "run" / "export"), str(tmp_path / "run"), run, f"{run}/export"):
        loaded = load_encoder(name)
        torch.testing.assert_close(encode(loaded, inputs), model(inputs).detach(), atol=1e-5, rtol=0)
        assert (loaded.image_size, loaded.mean, loaded.crop_ratio) == (28, (0.4, 0.5, 0.6), 1.0)


def test_a_classifier_of_another_timm_checkpoint_is_left_out(tmp_path: Path) -> None:
    model = timm.create_model("resnet18", num_classes=7)
    save_for_hf(model, str(tmp_path), safe_serialization=True)
    loaded = load_encoder(str(tmp_path))
    assert encode(loaded, torch.zeros(1, 3, 32, 32)).shape == (1, 512)
    kept = "layer4.1.conv2.weight"
    torch.testing.assert_close(loaded.model.state_dict()[kept], model.state_dict()[kept])


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="no such resnet18"):
        export_encoder(trained(VIT), RESNET, tmp_path)
    assert not list(tmp_path.iterdir())


def test_an_export_with_missing_weights_is_refused(tmp_path: Path) -> None:
    export_encoder(trained(RESNET), RESNET, tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["layer4.0.conv1.weight"]
    save_file(weights, tmp_path / "model.safetensors")
    with pytest.raises(InvalidInput, match=r"layer4\.0\.conv1"):
        load_encoder(str(tmp_path))


def test_names_that_lead_nowhere_say_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="is the run finished"):
        load_encoder(str(tmp_path))
    with pytest.raises(NotFound, match="is the run finished"):
        load_encoder(f"file://{tmp_path}/runs/none")
    with pytest.raises(NotFound, match="nor a model of timm's"):
        load_encoder("vit_enormous")
    with pytest.raises(InvalidInput, match="no weights"):
        load_encoder("test_vit4")
