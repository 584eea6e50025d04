"""How many images come before a group, without a number kept for every group."""

import numpy as np

_SHIFT = 6  # the total is kept before every 64th group, those between are added up


class Offsets:
    """Running totals of `image_counts`, integers [groups]."""

    def __init__(self, image_counts: np.ndarray) -> None:
        self._counts = image_counts
        firsts = np.arange(0, len(image_counts), 1 << _SHIFT)
        sums = np.add.reduceat(image_counts, firsts, dtype=np.int64) if len(firsts) else firsts
        self._before = np.concatenate([[0], np.cumsum(sums)])

    @property
    def total(self) -> int:
        return int(self._before[-1])

    def before(self, groups: np.ndarray) -> np.ndarray:
        """Images of the groups before each of these, int64 of the same shape."""
        blocks = groups >> _SHIFT
        places = (blocks << _SHIFT)[..., None] + np.arange((1 << _SHIFT) - 1)
        inside = places < groups[..., None]
        counts = self._counts[np.where(inside, places, 0)]
        return self._before[blocks] + np.where(inside, counts, 0).sum(-1, dtype=np.int64)

    def locate(self, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The group that has each of these images, counted through all groups, and the image within it."""
        blocks = np.searchsorted(self._before, images, side="right") - 1
        groups = (blocks << _SHIFT)[..., None] + np.arange(1 << _SHIFT)
        inside = groups < len(self._counts)
        counts = np.where(inside, self._counts[np.where(inside, groups, 0)], 0)
        ends = self._before[blocks][..., None] + np.cumsum(counts, -1, dtype=np.int64)
        place = (ends <= images[..., None]).sum(-1)
        found = (blocks << _SHIFT) + place
        return found, images - np.take_along_axis(ends - counts, place[..., None], -1)[..., 0]

    def repeated(self, values: np.ndarray) -> np.ndarray:
        """`values` [groups] for each image of a group, [images]."""
        return np.repeat(values, self._counts)
