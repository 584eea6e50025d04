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
