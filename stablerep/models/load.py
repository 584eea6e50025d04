"""Encoders to probe: an export, a finished run, any timm model with published weights, or random weights."""

import json
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import timm
import torch
from huggingface_hub.errors import HfHubHTTPError
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from torch import nn

from stablerep.config.encoder import EncoderSpec
from stablerep.errors import InvalidInput, NotFound, Unavailable
from stablerep.models.encoder import build_encoder
from stablerep.models.export import CONFIG_FILE, WEIGHTS_FILE
from stablerep.models.frozen import PAPER_CROP_RATIO, FrozenEncoder
from stablerep.models.released import ENDINGS, load_released
from stablerep.storage import Store, open_store

_HUB = "hf-hub:"


def load_encoder(model: str) -> FrozenEncoder:
    """The encoder that `model` names, with the preparation of images that goes with it.

    `model` is an export (a folder or a URL), a run (a folder or a URL, such as s3://bucket/runs/first), a
    timm model with published weights, such as vit_small_patch14_dinov2.lvd142m, a model in timm's layout on
    the Hugging Face hub, such as hf-hub:USER/NAME, or a checkpoint (.pt, .pth) of StableRep's release.

    Raises NotFound if there is nothing under that name, InvalidInput if what is there is no encoder, and
    Unavailable if published weights cannot be downloaded.
    """
    if model.startswith(_HUB):
        return _download(model)
    if model.endswith(ENDINGS) and Path(model).is_file():
        return load_released(Path(model))
    if "://" in model:
        return _load_from_store(open_store(model))
    # A run has a config.json of its own, so its export is looked for first.
    for folder in (Path(model) / "export", Path(model)):
        if (folder / CONFIG_FILE).is_file():
            return _load_folder(folder)
    if Path(model).is_dir():
        raise NotFound(f"{model} holds no {CONFIG_FILE}, nor does an export/ in it; is the run finished?")
    return _load_published(model)


def random_encoder(
    spec: EncoderSpec,
    *,
    seed: int,
    mean: Sequence[float] = IMAGENET_DEFAULT_MEAN,
    std: Sequence[float] = IMAGENET_DEFAULT_STD,
    crop_ratio: float = PAPER_CROP_RATIO,
) -> FrozenEncoder:
    """The encoder before any training, as a row to compare with.

    Norms that timm starts at zero, to switch residual branches off, start at one here: left at zero, a small
    ResNet sees one pixel in sixteen and probes at .25 instead of .77, too weak a row to compare with.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build_encoder(spec)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.affine and not module.weight.any():
            nn.init.ones_(module.weight)
    return FrozenEncoder(model.eval(), spec.image_size, tuple(mean), tuple(std), crop_ratio)


def _load_from_store(store: Store) -> FrozenEncoder:
    prefix = next((p for p in ("export/", "") if store.exists(p + CONFIG_FILE)), None)
    if prefix is None:
        raise NotFound(f"{store.url} holds no {CONFIG_FILE}, nor does an export/ in it; is the run finished?")
    with TemporaryDirectory(prefix="stablerep-encoder-") as folder:
        for name in (CONFIG_FILE, WEIGHTS_FILE):
            (Path(folder) / name).write_bytes(store.get(prefix + name))
        return _load_folder(Path(folder))


def _load_folder(folder: Path) -> FrozenEncoder:
    if not (folder / WEIGHTS_FILE).is_file():
        raise NotFound(f"{folder} has a {CONFIG_FILE} but no {WEIGHTS_FILE}")
    try:
        classes = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8")).get("num_classes")
        # timm takes a classifier off by itself, but then no longer checks that all other weights are there.
        without: dict[str, Any] = {} if classes == 0 else {"num_classes": 0}
        model = timm.create_model(f"local-dir:{folder.resolve()}", pretrained=True, **without)
    except (ValueError, RuntimeError, KeyError, TypeError, AttributeError) as error:
        raise InvalidInput(f"{folder} is no timm checkpoint: {error}", field="model") from error
    return _frozen(model)


def _load_published(name: str) -> FrozenEncoder:
    if not timm.is_model(name):
        raise NotFound(
            f"{name!r} is neither a folder, nor a URL such as file:///data/runs/first, nor a model of timm's"
        )
    if not timm.is_model_pretrained(name):
        raise InvalidInput(f"timm has no weights for {name}, only its architecture", field="model")
    return _download(name)


def _download(name: str) -> FrozenEncoder:
    try:
        model = timm.create_model(name, pretrained=True, num_classes=0)
    except (OSError, RuntimeError, HfHubHTTPError, ValueError) as error:
        raise Unavailable(f"cannot download the weights of {name}: {error}") from error
    return _frozen(model)


def _frozen(model: nn.Module) -> FrozenEncoder:
    config = timm.data.resolve_model_data_config(model)
    channels, height, width = config["input_size"]
    if channels != 3 or height != width:
        raise InvalidInput(f"takes {config['input_size']}, not square colour images", field="model")
    return FrozenEncoder(
        model.eval(), height, tuple(config["mean"]), tuple(config["std"]), float(config["crop_pct"])
    )
