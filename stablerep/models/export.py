"""An encoder as a plain timm checkpoint: config.json and model.safetensors.

    timm.create_model("local-dir:FOLDER", pretrained=True)

loads it with no code of this package. Without `pretrained=True` timm gives random weights, and says nothing.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import safetensors.torch
import timm
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from stablerep.config.encoder import EncoderSpec
from stablerep.errors import InvalidInput
from stablerep.models.encoder import build_encoder, model_arguments
from stablerep.models.frozen import PAPER_CROP_RATIO

CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


def export_encoder(
    encoder: nn.Module,
    spec: EncoderSpec,
    folder: Path,
    *,
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
    crop_ratio: float = PAPER_CROP_RATIO,
) -> None:
    """Writes the encoder that `spec` builds, with its weights and how its images are prepared, to a folder.

    Raises InvalidInput if the weights are not those of such an encoder, or timm could not read its arguments
    back from JSON.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in encoder.state_dict().items()}
    plain = build_encoder(spec)
    try:
        plain.load_state_dict(weights, strict=True)
    except RuntimeError as error:
        raise InvalidInput(f"the encoder is no such {spec.name}: {error}", field="encoder") from error
    config = _config(plain, spec, mean, std, crop_ratio)
    folder.mkdir(parents=True, exist_ok=True)
    safetensors.torch.save_file(plain.state_dict(), folder / WEIGHTS_FILE, metadata={"format": "pt"})
    (folder / CONFIG_FILE).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def _config(
    plain: nn.Module, spec: EncoderSpec, mean: Sequence[float], std: Sequence[float], crop_ratio: float
) -> dict[str, Any]:
    """What timm's own `save_for_hf` writes, less what describes published weights."""
    arguments = model_arguments(spec)
    try:
        unchanged = json.loads(json.dumps(arguments)) == arguments
    except TypeError:
        unchanged = False
    if not unchanged:
        raise InvalidInput(f"{arguments} cannot be written as JSON and read back", field="encoder.kwargs")
    published = timm.get_pretrained_cfg(spec.name)
    channels = arguments.get("in_chans", 3)
    pretrained = {
        "input_size": [channels, spec.image_size, spec.image_size],
        "fixed_input_size": "img_size" in arguments,
        "interpolation": "bicubic",
        "crop_pct": crop_ratio,
        "crop_mode": "center",
        "mean": list(mean),
        "std": list(std),
        "num_classes": 0,
        "pool_size": None,
        "first_conv": published.first_conv if published else None,
        "classifier": published.classifier if published else None,
    }
    return {
        "architecture": spec.name,
        "num_classes": 0,
        "num_features": plain.num_features,
        "model_args": arguments,
        "pretrained_cfg": pretrained,
    }
