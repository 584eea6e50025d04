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
from torch import Tensor, nn

from stablerep.errors import InvalidInput
from stablerep.models.frozen import FrozenEncoder
from stablerep.models.image_text import ImageTextTower

ENDINGS = (".pt", ".pth")
_VISUAL = "visual."
_OF_TEXTS = ("token_embedding.", "positional_embedding", "transformer.", "ln_final.", "text_projection")
_HEAD_WIDTH = 64
_NAMES = {384: "vit_small_patch16_224", 768: "vit_base_patch16_224", 1024: "vit_large_patch16_224"}


def load_released(file: Path) -> FrozenEncoder:
    """The encoder in a released checkpoint. Nothing but tensors and plain values is unpickled.

    Raises InvalidInput for any other file.
    """
    return _encoder(file, _read(file))


def load_released_towers(file: Path) -> tuple[FrozenEncoder, ImageTextTower]:
    """Both towers of a released checkpoint of StableRep+ or CLIP, which have linear projections.

    Raises InvalidInput for one without a text tower, and for what `load_released` refuses.
    """
    state = _read(file)
    encoder = _encoder(file, state)
    embedding, projection = (state.get(name) for name in ("token_embedding.weight", "image_projection"))
    if "image_projection.layer1.weight" in state:
        raise InvalidInput(
            f"{file} compares images with texts by MLPs; linear projections are read", field="model"
        )
    if embedding is None or projection is None:
        raise InvalidInput(f"{file} holds no text tower; those of StableRep+ and CLIP do", field="model")
    layers = {name.split(".")[2] for name in state if name.startswith("transformer.resblocks.")}
    tower = ImageTextTower(
        projection.shape[0],
        layers=len(layers),
        text_width=embedding.shape[1],
        heads=max(1, embedding.shape[1] // _HEAD_WIDTH),
        out=projection.shape[1],
        vocabulary=embedding.shape[0],
    )
    weights = {f"tower.{name}": state[name] for name in state if name.startswith(_OF_TEXTS)}
    weights["projection.weight"] = projection.T
    weights["log_scale"] = state["logit_scale"].reshape(1) if "logit_scale" in state else tower.log_scale
    _fill(file, tower, weights, "text tower of StableRep's release")
    return encoder, tower.eval()


def _read(file: Path) -> dict[str, Tensor]:
    """The weights by their names without the wrapper's; of a ViT alone, if that is all there is."""
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else "it ends early"
        raise InvalidInput(f"{file} is no checkpoint: {reason}", field="model") from None
    state = content.get("model") if isinstance(content, dict) else None
    if not isinstance(state, dict):
        return {}
    return {key.removeprefix("module."): value for key, value in state.items()}


def _encoder(file: Path, state: dict[str, Tensor]) -> FrozenEncoder:
    weights = {
        key.removeprefix(_VISUAL): value
        for key, value in state.items()
        if key.startswith(_VISUAL) and not key.startswith(f"{_VISUAL}head")
    }
    width = weights["cls_token"].shape[-1] if "cls_token" in weights else None
    if width not in _NAMES:
        raise InvalidInput(
            f"{file} holds no ViT of StableRep's release: no visual.* of its sizes", field="model"
        )
    model = timm.create_model(_NAMES[width], num_classes=0)
    _fill(file, model, weights, _NAMES[width])
    return FrozenEncoder(model.eval(), 224, IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD)


def _fill(file: Path, model: nn.Module, weights: dict[str, Tensor], what: str) -> None:
    try:
        model.load_state_dict(weights)
    except RuntimeError as error:
        message = f"{file} is no {what}: {' '.join(str(error).split())[:300]}"
        raise InvalidInput(message, field="model") from None
