"""An encoder as a plain timm checkpoint: config.json and model.safetensors, loadable with no code of ours."""

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from stablerep.data.views import IMAGENET_MEAN, IMAGENET_STD
from stablerep.models.encoder import EncoderSpec, model_arguments


def export_encoder(encoder: nn.Module, spec: EncoderSpec, folder: Path) -> None:
    """Writes the encoder so that `timm.create_model("local-dir:FOLDER", pretrained=True)` gives it back.

    timm only reads the weights when told `pretrained=True`; without it the model has random ones.
    """
    folder.mkdir(parents=True, exist_ok=True)
    configuration = {
        "architecture": spec.name,
        "num_classes": 0,
        "num_features": encoder.num_features,
        "model_args": {"num_classes": 0, **model_arguments(spec)},
        "pretrained_cfg": {
            "num_classes": 0,
            "input_size": [3, spec.image_size, spec.image_size],
            "mean": list(IMAGENET_MEAN),
            "std": list(IMAGENET_STD),
            "interpolation": "bilinear",
            "crop_pct": 1.0,
        },
    }
    (folder / "config.json").write_text(json.dumps(configuration, indent=1) + "\n")
    weights = {name: value.detach().cpu().contiguous() for name, value in encoder.state_dict().items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
