"""StableRep+: StableRep, and every image and its caption attract each other (paper, section 3.3; eq. 5)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from stablerep.methods.clip import TextConfig, contrast_both, encode_both
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
    image_weight: float = Field(default=1.0, ge=0)
    text_weight: float = Field(default=1.0, ge=0)

    def needs(self) -> Needs:
        return Needs(
            images=self.images_per_caption, crops=self.crops, texts=True, tokenizer=self.text.tokenizer
        )

    def with_tokenizer(self, where: str) -> StableRepPlus:
        return self.model_copy(update={"text": self.text.model_copy(update={"tokenizer": where})})

    def build(self, parts: Parts) -> dict[str, nn.Module]:
        return {**super().build(parts), "image_text": self.text.tower(parts.encoder.num_features)}

    def encode(self, modules: Any, batch: Batch) -> dict[str, Tensor]:
        return encode_both(modules, batch)

    def losses(self, modules: Any, encoded: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        between = contrast_both(modules, encoded, batch, self.equal_texts)
        contrastive = super().losses(modules, encoded, batch)["contrastive"]
        return {"contrastive": self.image_weight * contrastive, "image_text": self.text_weight * between}

    def after_step(self, modules: Any, done: float) -> None:
        modules.image_text.clamp_scale()

    def floor(self, label_counts: Any) -> float | None:
        return None
