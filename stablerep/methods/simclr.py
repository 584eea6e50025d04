"""SimCLR: two views of one image attract each other (Chen et al. 2020): StableRep on images by themselves."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import Field, model_validator

from stablerep.methods.interface import Needs
from stablerep.methods.stablerep import StableRep


class SimCLR(StableRep):
    """NT-Xent is the multi-positive loss with two views a label, and every image a label of its own."""

    name: Literal["simclr"] = "simclr"  # type: ignore[assignment]
    images_per_caption: Literal[1] = 1
    crops: int = Field(default=2, ge=1)
    equal_texts: Literal["positive"] = "positive"  # texts are not known

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.crops < 2:
            raise ValueError("crops: simclr needs 2 or more views of an image")
        return self

    def needs(self) -> Needs:
        return Needs(crops=self.crops, by_image=True)
