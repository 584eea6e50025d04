"""CLIP: an image and its caption attract each other (Radford et al. 2021), a baseline of the paper."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stablerep.methods.interface import Batch, EqualTexts, MethodConfig, Needs, Parts

if TYPE_CHECKING:
    from torch import Tensor, nn


class TextConfig(BaseModel):
    """The text tower and the space that it shares with images; the defaults are CLIP ViT-B's.

    `tokenizer`: a file or URL that `stablerep tokenizer` made; CLIP's by default.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(default=12, ge=1)
    width: int = Field(default=512, ge=8)
    heads: int = Field(default=8, ge=1)
    out: int = Field(default=512, ge=1)
    tokenizer: str = ""

    def tower(self, image_width: int) -> nn.Module:
        """The tower for images with features of this width."""
        from stablerep.models.image_text import ImageTextTower
        from stablerep.models.tokenizer import load_tokenizer

        return ImageTextTower(
            image_width,
            layers=self.layers,
            text_width=self.width,
            heads=self.heads,
            out=self.out,
            vocabulary=load_tokenizer(self.tokenizer).size,
        )


class Clip(MethodConfig):
    """One view of one image of a caption, drawn anew at every step, and the caption's text.

    `equal_texts`: captions of the batch with equal texts are positives of each other, or are left out.
    """

    name: Literal["clip"] = "clip"
    text: TextConfig = TextConfig()
    equal_texts: EqualTexts = "positive"

    def needs(self) -> Needs:
        return Needs(texts=True, tokenizer=self.text.tokenizer)

    def with_tokenizer(self, where: str) -> Clip:
        return self.model_copy(update={"text": self.text.model_copy(update={"tokenizer": where})})

    def build(self, parts: Parts) -> dict[str, nn.Module]:
        return {"encoder": parts.encoder, "image_text": self.text.tower(parts.encoder.num_features)}

    def encode(self, modules: Any, batch: Batch) -> dict[str, Tensor]:
        return encode_both(modules, batch)

    def losses(self, modules: Any, encoded: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"image_text": contrast_both(modules, encoded, batch, self.equal_texts)}

    def after_step(self, modules: Any, done: float) -> None:
        modules.image_text.clamp_scale()


def encode_both(modules: Any, batch: Batch) -> dict[str, Tensor]:
    """Features and embeddings of the views, and the embedding of each caption's text, once."""
    features = modules.encoder(batch.views)
    return {
        "features": features.unflatten(0, (batch.number, -1)),
        "images": modules.image_text.images(features).unflatten(0, (batch.number, -1)),
        "texts": modules.image_text.texts(batch.tokens)[None],
    }


def contrast_both(
    modules: Any, encoded: Mapping[str, Tensor], batch: Batch, equal_texts: EqualTexts
) -> Tensor:
    """Half the contrast of images to texts, and half that of texts to images."""
    from stablerep.objectives.image_text import image_text_loss

    return image_text_loss(
        encoded["images"].flatten(0, 1),
        encoded["texts"][0],
        batch.labels,
        scale=modules.image_text.scale(),
        equal_texts=equal_texts,
    )
