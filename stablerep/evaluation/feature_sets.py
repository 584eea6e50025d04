"""An encoder's features of a set of photographs, computed once: kept in memory, and in a store if asked.

features/<encoder>-<photographs>-<kind>.safetensors in the store, digests of each; `train` and `test` in it.
"""

import hashlib
from dataclasses import dataclass, field, replace
from typing import Literal

import torch
from safetensors.torch import load, save
from torch import Tensor

from stablerep.errors import InvalidInput, NotFound
from stablerep.evaluation.datasets.photographs import Photographs
from stablerep.evaluation.features import Encoder, extract_features
from stablerep.evaluation.records import digest_of
from stablerep.models.frozen import FrozenEncoder, with_mean_patch
from stablerep.storage import Store

Kind = Literal["pooled", "class+patches"]
"""What the encoder gives for an image; or its class token beside the mean of its patch tokens (a ViT's)."""


@dataclass
class FeatureSet:
    """The features of an encoder, or of the bare pixels, for one set; `cache` keeps them for others."""

    encoder: Encoder
    data: Photographs
    batch: int = 250
    cache: Store | None = None
    _found: dict[Kind, tuple[Tensor, Tensor]] = field(default_factory=dict)

    def of(self, kind: Kind = "pooled") -> tuple[Tensor, Tensor]:
        """Features [n d] of the training and of the test photographs."""
        if kind not in self._found:
            self._found[kind] = self._read(kind) if self.cache is not None else self._extract(kind)
        return self._found[kind]

    def _read(self, kind: Kind) -> tuple[Tensor, Tensor]:
        assert self.cache is not None
        model = "pixels" if isinstance(self.encoder, str) else digest_of_encoder(self._seen_by(kind))
        key = f"features/{model[:32]}-{digest_of(self.data)[:32]}-{kind}.safetensors"
        try:
            tensors = load(self.cache.get(key))
            return tensors["train"], tensors["test"]
        except NotFound:
            train, test = self._extract(kind)
        self.cache.put(key, save({"train": train.contiguous(), "test": test.contiguous()}))
        return train, test

    def _extract(self, kind: Kind) -> tuple[Tensor, Tensor]:
        plain = isinstance(self.encoder, str) and kind == "pooled"
        encoder = self.encoder if plain else self._seen_by(kind)
        seen = self.data if isinstance(encoder, str) else self.data.framed()
        train, test = (
            extract_features(encoder, images, batch=self.batch)
            for images in (seen.train_images, seen.test_images)
        )
        return train, test

    def _seen_by(self, kind: Kind) -> FrozenEncoder:
        if isinstance(self.encoder, str):
            raise InvalidInput("pixels have no tokens", field="protocol")
        whole = replace(self.encoder, crop_ratio=1.0) if self.data.whole else self.encoder
        return with_mean_patch(whole) if kind == "class+patches" else whole


def digest_of_encoder(encoder: FrozenEncoder) -> str:
    """SHA-256 of the weights and of how images are prepared."""
    digest = hashlib.sha256()
    prepared = (encoder.image_size, list(encoder.mean), list(encoder.std), encoder.crop_ratio)
    digest.update(f"{type(encoder.model).__name__} {prepared}".encode())
    for name, value in sorted(encoder.model.state_dict().items()):
        digest.update(f"{name} {tuple(value.shape)} {value.dtype}".encode())
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
