"""Which images a run has seen: counted as it goes, and kept in its checkpoints."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

_KEY = "run.images_seen"


class SeenImages:
    """One bit an image of the corpus."""

    def __init__(self, image_counts: np.ndarray) -> None:
        self._first = np.concatenate([[0], np.cumsum(image_counts)])
        self._seen = np.zeros(self._first[-1], dtype=bool)
        self._whole = True

    def add(self, groups: np.ndarray, numbers: np.ndarray) -> None:
        """The images that a step drew, on all ranks: arrays of one shape."""
        self._seen[self._first[groups] + numbers] = True

    def count(self) -> int | None:
        """How many different images; None if it is not known of an earlier part of the run."""
        return int(self._seen.sum()) if self._whole else None

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {_KEY: torch.from_numpy(np.packbits(self._seen))} if self._whole else {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from a checkpoint; one that was written before images were counted knows nothing."""
        if _KEY not in tensors:
            self._whole = False
            return
        self._seen = np.unpackbits(tensors[_KEY].numpy(), count=len(self._seen)).astype(bool)
