"""The checkpoints that the authors of StableRep released: a file of theirs as an encoder.

Theirs are dictionaries with `model` (keys `visual.*` for the ViT, `image_mlp.*` for the head, those of the
text tower for StableRep+), `optimizer`, `epoch`, `scaler` and `args`. The ViT is timm's ViT-S, -B or -L with
patches of 16, known by its width; images are prepared as in their linear probe.
"""

import argparse
import pickle
from pathlib import Path

import timm
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD

from stablerep.errors import InvalidInput
from stablerep.models.frozen import FrozenEncoder

ENDINGS = (".pt", ".pth")
_PREFIXES = ("module.visual.", "visual.")
_NAMES = {384: "vit_small_patch16_224", 768: "vit_base_patch16_224", 1024: "vit_large_patch16_224"}


def load_released(file: Path) -> FrozenEncoder:
    """The encoder in a released checkpoint. Nothing but tensors and plain values is unpickled.

    Raises InvalidInput for any other file.
    """
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends early"
        raise InvalidInput(f"{file} is no checkpoint: {reason}", field="model") from None
    state = content.get("model") if isinstance(content, dict) else None
    weights = {}
    for key, value in state.items() if isinstance(state, dict) else ():
        prefix = next((one for one in _PREFIXES if key.startswith(one)), None)
        if prefix is not None and not key.startswith(f"{prefix}head"):
            weights[key.removeprefix(prefix)] = value
    width = weights["cls_token"].shape[-1] if "cls_token" in weights else None
    if width not in _NAMES:
        raise InvalidInput(
            f"{file} holds no ViT of StableRep's release: no visual.* of its sizes", field="model"
        )
    model = timm.create_model(_NAMES[width], num_classes=0)
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        raise InvalidInput(
            f"{file} is no {_NAMES[width]}: {' '.join(str(error).split())[:300]}", field="model"
        ) from None
    return FrozenEncoder(model.eval(), 224, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)
