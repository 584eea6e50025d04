"""Photographs that are read when they are asked for: sets that would not fit in memory."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image, ImageOps

_READERS = 8


class LazyImages:
    """n images as `array[start:stop]` and `array[indices]` give them: uint8 [n size size 3].

    `read` gives image i, of any size and mode; its centre square is resized (bicubic) to `size` pixels.
    """

    ndim = 4
    dtype = np.dtype(np.uint8)

    def __init__(self, count: int, read: Callable[[int], Image.Image], size: int) -> None:
        self._numbers, self._read, self._size = np.arange(count), read, size

    @property
    def shape(self) -> tuple[int, int, int, int]:
        return (len(self._numbers), self._size, self._size, 3)

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, chosen: Any) -> np.ndarray:
        with ThreadPoolExecutor(_READERS) as readers:
            found = list(readers.map(self._image, self._numbers[chosen].tolist()))
        return np.stack(found) if found else np.empty((0, self._size, self._size, 3), np.uint8)

    def _image(self, number: int) -> np.ndarray:
        image = self._read(number).convert("RGB")
        return np.asarray(ImageOps.fit(image, (self._size, self._size), Image.Resampling.BICUBIC))
