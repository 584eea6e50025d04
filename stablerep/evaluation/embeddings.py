"""Embeddings of a dataset as a Parquet file: id, caption, vector, and two coordinates to look at it."""

import io
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import torch
from PIL import Image, ImageOps
from torch import Tensor

from stablerep.data.corpus.groups import GroupDataset
from stablerep.data.files import DAMAGED
from stablerep.errors import InvalidInput
from stablerep.evaluation.features import encode, prepare
from stablerep.models.frozen import FrozenEncoder

_ROWS = 256


def write_embeddings(
    encoder: FrozenEncoder,
    dataset: GroupDataset,
    out: Path,
    *,
    progress: Callable[[int], None] = lambda images: None,
) -> int:
    """Writes a row an image: id (caption id and number), caption, vector [d], x, y; returns how many.

    x and y are the first two principal components of the vectors. Raises InvalidInput for a dataset without
    a readable image.
    """
    ids: list[str] = []
    captions: list[str] = []
    vectors: list[Tensor] = []
    waiting: list[Tensor] = []
    for group in dataset:
        for number, data in enumerate(group.encoded):
            try:
                waiting.append(_prepared(data, encoder))
            except DAMAGED:
                continue
            ids.append(f"{group.caption_id}.{number:02d}")
            captions.append(group.caption)
            if len(waiting) == _ROWS:
                vectors.append(_encode(encoder, waiting))
                waiting = []
                progress(len(ids))
    if waiting:
        vectors.append(_encode(encoder, waiting))
        progress(len(ids))
    if not vectors:
        raise InvalidInput(f"{dataset.url} holds no readable image", field="dataset")
    whole = torch.cat(vectors)
    x, y = _plane(whole).T.numpy()
    table = pa.table(
        {
            "id": ids,
            "caption": captions,
            "vector": pa.FixedSizeListArray.from_arrays(whole.flatten().numpy(), whole.shape[1]),
            "x": x.astype(np.float32),
            "y": y.astype(np.float32),
        }
    )
    parquet.write_table(table, out)
    return len(ids)


def _prepared(data: bytes, encoder: FrozenEncoder) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        pixels = np.asarray(ImageOps.exif_transpose(image).convert("RGB"))
    return prepare(pixels[None], encoder)[0]


def _encode(encoder: FrozenEncoder, images: list[Tensor]) -> Tensor:
    return encode(encoder, torch.stack(images))


def _plane(vectors: Tensor) -> Tensor:
    """The first two principal components [n 2], each with its largest entry positive."""
    centred = vectors.double() - vectors.double().mean(0)
    _, _, axes = torch.linalg.svd(centred, full_matrices=False)
    axes = axes[:2]
    if len(axes) < 2:
        axes = torch.cat([axes, axes.new_zeros(2 - len(axes), axes.shape[1])])
    signs = axes.gather(1, axes.abs().argmax(1, keepdim=True)).sign()
    return centred @ (axes * torch.where(signs == 0, 1.0, signs)).T
