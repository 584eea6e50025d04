"""Pixels for a batch: decoded once and kept where they fit in memory, else read and decoded each time."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional as vision

from stablerep.data.corpus.positive_sets import Corpus

_READERS = 8  # groups read and decoded at once; decoding releases the interpreter lock


class ImageSource:
    """Images by (group, number) as uint8 [n 3 H W], all of the first image's size (others are resized to it).

    With at most `memory` bytes of pixels in the corpus everything is decoded once, on opening: a batch of 256
    small images then costs under a millisecond, where decoding it again takes tens of them.
    """

    def __init__(self, corpus: Corpus, *, memory: int = 10**9) -> None:
        self._corpus = corpus
        first = next(index for index, count in enumerate(corpus.image_counts) if count)
        height, width = _decode(corpus.encoded(first)[0]).shape[-2:]
        self.size = (height, width)
        images = int(corpus.image_counts.sum())
        self.kept = images * 3 * self.size[0] * self.size[1] <= memory
        if self.kept:
            self._first = np.concatenate([[0], np.cumsum(corpus.image_counts)[:-1]])
            with ThreadPoolExecutor(_READERS) as readers:
                parts = readers.map(self._decode_group, range(len(corpus.image_counts)))
                self._pixels = torch.cat(list(parts))

    def images(self, groups: np.ndarray, numbers: np.ndarray) -> Tensor:
        """The image `numbers[i]` of group `groups[i]`, for [n] of both."""
        if self.kept:
            return self._pixels[torch.from_numpy(self._first[groups] + numbers)]
        unique, position = np.unique(groups, return_inverse=True)
        with ThreadPoolExecutor(_READERS) as readers:
            encoded = list(readers.map(self._corpus.encoded, unique.tolist()))
            wanted = (encoded[at][number] for at, number in zip(position, numbers, strict=True))
            return torch.stack(list(readers.map(self._decode_to_size, wanted)))

    def _decode_group(self, group: int) -> Tensor:
        encoded = self._corpus.encoded(group) if self._corpus.image_counts[group] else ()
        if not encoded:
            return torch.empty(0, 3, *self.size, dtype=torch.uint8)
        return torch.stack([self._decode_to_size(data) for data in encoded])

    def _decode_to_size(self, data: bytes) -> Tensor:
        image = _decode(data)
        return (
            image if image.shape[-2:] == self.size else vision.resize(image, list(self.size), antialias=True)
        )


def _decode(data: bytes) -> Tensor:
    with Image.open(io.BytesIO(data)) as image:
        return torch.from_numpy(np.array(image.convert("RGB"))).permute(2, 0, 1)
