"""StableRep+: StableRep, and every image and its caption attract each other (paper, section 3.3; eq. 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stablerep.methods.clip import EqualTexts, TextConfig
from stablerep.methods.interface import Batch, Needs, Parts
from stablerep.methods.stablerep import StableRep

if TYPE_CHECKING:
    from torch import Tensor, nn


class StableRepPlus(StableRep):
    """Each text is encoded once a step; all images of its caption are its positives.

    `image_weight` and `text_weight` weigh the two losses; both 1 in the paper.
    """

    name: Literal["stablerep_plus"] = "stablerep_plus"  # type: ignore[assignment]
    text: TextConfig = TextConfig()
    equal_texts: EqualTexts = "positive"
    image_weight: float = Field(default=1.0, ge=0)
    text_weight: float = Field(default=1.0, ge=0)

    def needs(self) -> Needs:
        return Needs(images=self.images_per_caption, crops=self.crops, texts=True)

    def build(self, parts: Parts) -> dict[str, nn.Module]:
        return {**super().build(parts), "image_text": self.text.tower(parts.encoder.num_features)}

    def encode(self, modules: Any, batch: Batch) -> dict[str, Tensor]:
        features = modules.encoder(batch.views)
        return {
            "features": features.unflatten(0, (batch.number, -1)),
            "images": modules.image_text.images(features).unflatten(0, (batch.number, -1)),
            "texts": modules.image_text.texts(batch.tokens)[None],
        }

    def losses(self, modules: Any, encoded: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        from stablerep.objectives.image_text import image_text_loss

        between = image_text_loss(
            encoded["images"].flatten(0, 1),
            encoded["texts"][0],
            batch.labels,
            scale=modules.image_text.scale(),
            equal_texts=self.equal_texts,
        )
        contrastive = super().losses(modules, encoded, batch)["contrastive"]
        return {"contrastive": self.image_weight * contrastive, "image_text": self.text_weight * between}

    def after_step(self, modules: Any, done: float) -> None:
        modules.image_text.clamp_scale()

    def floor(self, label_counts: Any) -> float | None:
        return None
