"""Which images a run has seen: counted as it goes, and kept in its checkpoints."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from stablerep.data.corpus.offsets import Offsets

_KEY = "run.images_seen"


class SeenImages:
    """One bit an image of the corpus."""

    def __init__(self, image_counts: np.ndarray) -> None:
        self._offsets = Offsets(image_counts)
        self._seen = np.zeros(-(-self._offsets.total // 8), dtype=np.uint8)
        self._whole = True

    def add(self, groups: np.ndarray, numbers: np.ndarray) -> None:
        """The images that a step drew, on all ranks: arrays of one shape."""
        images = (self._offsets.before(groups) + numbers).reshape(-1)
        np.bitwise_or.at(self._seen, images >> 3, (128 >> (images & 7)).astype(np.uint8))

    def count(self) -> int | None:
        """How many different images; None if it is not known of an earlier part of the run."""
        return int.from_bytes(self._seen.tobytes()).bit_count() if self._whole else None

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""
        return {_KEY: torch.from_numpy(self._seen.copy())} if self._whole else {}

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Goes on from a checkpoint; one that was written before images were counted knows nothing."""
        if _KEY not in tensors:
            self._whole = False
            return
        self._seen = tensors[_KEY].numpy().copy()
