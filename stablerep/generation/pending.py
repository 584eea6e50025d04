"""Groups on their way through the GPU: their rows in batches, and the pixels that come out."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import groupby
from typing import Any

import numpy as np

from stablerep.captions import Caption


@dataclass(frozen=True)
class GroupPixels:
    """A group whose images are pixels, uint8 [h w 3] each; none, and an `error`, where generation failed."""

    caption: Caption
    pixels: tuple[np.ndarray, ...]
    info: dict[str, Any]
    error: str = ""

    @property
    def size(self) -> int:
        """Bytes of its pixels."""
        return sum(image.nbytes for image in self.pixels)


@dataclass(eq=False)
class PendingGroup:
    """A group being generated: None where an image is still to come."""

    caption: Caption
    embedding: Any
    seeds: list[int]
    pixels: list[np.ndarray | None]
    info: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def is_done(self) -> bool:
        return bool(self.error) or not any(image is None for image in self.pixels)

    def group_pixels(self) -> GroupPixels:
        """The group, once it is done."""
        if self.error:
            return GroupPixels(self.caption, (), {}, self.error)
        return GroupPixels(
            self.caption, tuple(image for image in self.pixels if image is not None), self.info
        )

    def rows(self) -> list["Row"]:
        return [Row(self, index) for index in range(len(self.pixels))]


@dataclass(frozen=True)
class Row:
    """One image of one group, a row of a batch."""

    group: PendingGroup
    index: int

    @property
    def seed(self) -> int:
        return self.group.seeds[self.index]

    def batch(self, batch_images: int) -> int:
        """The batch in which the slots layout has it, by number; larger for later captions and images."""
        images = len(self.group.pixels)
        if images > batch_images:
            return (self.group.caption.id * images + self.index) // batch_images
        return self.group.caption.id // (batch_images // images)

    def place(self, batch_images: int) -> int:
        """Its place in that batch, whichever others are there."""
        images = len(self.group.pixels)
        if images > batch_images:
            return self.index % batch_images
        return self.group.caption.id % (batch_images // images) * images + self.index


def split_captions(rows: Sequence[Row]) -> list[list[Row]]:
    """The rows in two halves, cut between captions; one part where there is only one caption."""
    groups = [list(members) for _, members in groupby(rows, key=lambda row: id(row.group))]
    middle = len(groups) // 2
    halves = (groups[:middle], groups[middle:])
    return [[row for members in half for row in members] for half in halves if half]
