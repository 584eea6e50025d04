"""How different the images of one group are, as the gallery says it."""

import io
from functools import lru_cache
from importlib.util import find_spec
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError

from stablerep.config.names import check_run
from stablerep.errors import InvalidInput, StableRepError
from stablerep.shards import Group
from stablerep.shards.layout import RUNS
from stablerep.storage import Store


def pixel_spread_of(group: Group) -> float | None:
    """Deviation of a pixel's value over the images, in levels of 256; None without two of one size."""
    images = _decoded(group)
    if len(images) < 2 or len({image.shape for image in images}) > 1:
        return None
    return float(np.stack(images).astype(np.float64).std(axis=0).mean())


def feature_spread_of(group: Group, store: Store, run: str) -> float | str | None:
    """1 - cosine of two images' features by a run's encoder, the mean over pairs; or, as text, why not."""
    try:
        check_run(run)
    except InvalidInput as error:
        return str(error)
    if find_spec("torch") is None:
        return "features need torch, which this console does not have: pip install 'stablerep[train]'"
    images = _decoded(group)
    if len(images) < 2 or len({image.shape for image in images}) > 1:
        return None
    from stablerep.evaluation.features import extract_features
    from stablerep.evaluation.spread import feature_spread

    try:
        return feature_spread(extract_features(_encoder(f"{store.url}/{RUNS}{run}"), np.stack(images)))
    except StableRepError as error:
        return str(error)


@lru_cache(maxsize=4)
def _encoder(url: str) -> Any:
    from stablerep.models.load import load_encoder

    return load_encoder(url)


def _decoded(group: Group) -> list[np.ndarray]:
    """The images that can be decoded."""
    found = []
    for data in group.encoded:
        try:
            with Image.open(io.BytesIO(data)) as image:
                found.append(np.asarray(image.convert("RGB")))
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError):
            continue
    return found
