"""StableRep: the images of one caption attract each other (Tian et al. 2023, section 3.1)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal, Self

from pydantic import Field, model_validator

from stablerep.methods.interface import Batch, EqualTexts, MethodConfig, Needs, Parts

if TYPE_CHECKING:
    from torch import Tensor, nn


class StableRep(MethodConfig):
    """`images_per_caption` images of a caption, `crops` views of each; all are positives of each other.

    `equal_texts`: captions of the batch with equal texts are positives of each other, or are left out.
    """

    name: Literal["stablerep"] = "stablerep"
    images_per_caption: int = Field(default=6, ge=1)
    crops: int = Field(default=1, ge=1)
    temperature: float = Field(default=0.1, gt=0)
    equal_texts: EqualTexts = "positive"

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
        return {"contrastive": contrast_views(modules, encoded, batch, self.temperature, self.equal_texts)}

    def floor(self, label_counts: Any) -> float | None:
        from stablerep.objectives.multi_positive import floor_of

        together = label_counts if self.equal_texts == "positive" else label_counts * 0 + 1
        return floor_of(together * self.needs().views)


def contrast_views(
    modules: Any, encoded: Mapping[str, Tensor], batch: Batch, temperature: float, equal_texts: EqualTexts
) -> Tensor:
    """The multi-positive loss of the views, through the head."""
    import numpy as np
    import torch

    from stablerep.objectives import multi_positive_loss
    from stablerep.objectives.gather import rank

    embeddings = modules.head(encoded["features"].flatten(0, 1), batch.number)
    instances, together = None, batch.label_counts
    if equal_texts == "masked":
        count = len(batch.labels)
        own = torch.arange(count, device=batch.labels.device) + rank() * count
        instances, together = own.repeat(batch.number), np.ones(count, np.int64)
    return multi_positive_loss(
        embeddings,
        batch.view_labels,
        temperature=temperature,
        instances=instances,
        counts=None if together is None else np.tile(together * batch.number, batch.number),
    )
