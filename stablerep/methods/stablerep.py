"""StableRep: the images of one caption attract each other (Tian et al. 2023, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from stablerep.methods.interface import Batch, MethodConfig, Needs, Parts

if TYPE_CHECKING:
    from torch import Tensor, nn


class StableRep(MethodConfig):
    """`images_per_caption` images of a caption, `crops` views of each; all are positives of each other."""

    name: Literal["stablerep"] = "stablerep"
    images_per_caption: int = Field(default=6, ge=1)
    crops: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.1, gt=0)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.images_per_caption * self.crops < 2:
            raise ValueError("images_per_caption: a caption needs 2 or more views to have positives")
        return self

    def needs(self) -> Needs:
        return Needs(images=self.images_per_caption, crops=self.crops)

    def build(self, parts: Parts) -> dict[str, nn.Module]:
        from stablerep.models.heads import ProjectionHead

        head = ProjectionHead(parts.encoder.num_features, **parts.head.model_dump())
        return {"encoder": parts.encoder, "head": head}

    def encode(self, modules: Any, batch: Batch) -> dict[str, Tensor]:
        return {"features": modules.encoder(batch.views).unflatten(0, (batch.number, -1))}

    def losses(self, modules: Any, encoded: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        from stablerep.objectives import multi_positive_loss

        embeddings = modules.head(encoded["features"].flatten(0, 1), batch.number)
        loss = multi_positive_loss(embeddings, batch.view_labels, temperature=self.temperature)
        return {"contrastive": loss}

    def floor(self, label_counts: Any) -> float | None:
        from stablerep.objectives.multi_positive import floor_of

        return floor_of(label_counts * self.needs().views)
