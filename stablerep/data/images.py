"""Pixels for a batch: decoded once and kept where they fit in memory, else read and decoded each time."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from stablerep.data.corpus.offsets import Offsets
from stablerep.data.corpus.positive_sets import Corpus
from stablerep.data.decode import decode_image, resize
from stablerep.data.files import DAMAGED, why_damaged
from stablerep.errors import InvalidInput

_FETCHES = 32  # groups asked of a store at once: at 30 ms each, a thousand a second
_DECODERS = 8  # images decoded at once, which releases the interpreter lock
_NAMED = 5  # damaged images that a message names
_GREY = 128
Result = TypeVar("Result")


class Timer:
    """Seconds by what they went to."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def of(self, what: str) -> Iterator[None]:
        began = time.monotonic()
        yield
        self.seconds[what] = self.seconds.get(what, 0.0) + time.monotonic() - began


@dataclass(frozen=True)
class Pixels:
    """n images of their own sizes, each in the upper left corner of uint8 [n 3 H W]; sizes int64 [n 2]."""

    images: Tensor
    sizes: np.ndarray


class ImageSource:
    """Images by (group, number), each at its own aspect; shrunk where its shorter side is over `resolution`.

    With at most `memory` bytes of pixels in the corpus everything is decoded once, on opening: a batch of 256
    small images then costs under a millisecond, where decoding it again takes tens of them. None: nothing is
    read before it is asked for, since not all images are there yet.

    A damaged image is replaced by the next sound one of its group, always by the same one, and by a grey one
    where there is none; `damaged` keeps which and why. Whether there are too many, the caller judges.
    """

    def __init__(self, corpus: Corpus, *, memory: int | None = 10**9, resolution: int | None = None) -> None:
        self._corpus, self._resolution = corpus, resolution
        self.damaged: dict[tuple[int, int], str] = {}
        self._decoded = 0
        self._fetchers = ThreadPoolExecutor(_FETCHES, "fetcher")
        self._decoders = ThreadPoolExecutor(_DECODERS, "decoder")
        self._lock = threading.Lock()
        counts = corpus.image_counts
        self._offsets = Offsets(counts)
        self._kept: _Kept | None = None
        if memory is not None and self._estimate(counts) <= memory:
            self._kept = self._decode_all(memory)

    @property
    def kept(self) -> bool:
        """Whether all images are in memory, decoded."""
        return self._kept is not None

    def images(self, groups: np.ndarray, numbers: np.ndarray, timer: Timer | None = None) -> Pixels:
        """The image `numbers[i]` of group `groups[i]`, for [n] of both."""
        if self._kept is not None:
            return self._kept.choose(self._offsets.before(groups) + numbers)
        return _pad(self.each(groups, numbers, timer))

    def each(self, groups: np.ndarray, numbers: np.ndarray, timer: Timer | None = None) -> list[np.ndarray]:
        """The same images one by one, uint8 [h w 3]."""
        timer = timer or Timer()
        if self._kept is not None:
            return self._kept.each(self._offsets.before(groups) + numbers)
        unique, position = np.unique(groups, return_inverse=True)
        with timer.of("read"):
            runs = self._fetchers.map(self._corpus.encoded, self._corpus.together(unique))
            encoded = [images for run in runs for images in run]
        wanted = [
            (int(unique[at]), encoded[at], int(number)) for at, number in zip(position, numbers, strict=True)
        ]
        with timer.of("decode"):
            return self.in_threads(lambda one: self._sound(*one), wanted)

    def in_threads(self, work: Callable[[Any], Result], items: Sequence[Any]) -> list[Result]:
        """What `work` makes of each item, in order; the decoders share the items."""
        return list(self._decoders.map(work, items))

    def counts(self) -> tuple[int, int]:
        """Different images found damaged so far, and images decoded so far."""
        with self._lock:
            return len(self.damaged), self._decoded

    def damage(self) -> dict[tuple[int, int], str]:
        """The damaged images found so far, by group and number, and what is wrong with them."""
        with self._lock:
            return dict(self.damaged)

    def note(self, damaged: dict[tuple[int, int], str], decoded: int) -> None:
        """Counts what another process found damaged, and decoded, in place of this one."""
        with self._lock:
            self.damaged.update(damaged)
            self._decoded += decoded

    def describe_damage(self) -> str:
        """Some of the damaged images by dataset, shard and caption, and what is wrong with them."""
        with self._lock:
            found = sorted(self.damaged.items())
        named = (
            f"image {number} of {self._corpus.where(group)} ({why})"
            for (group, number), why in found[:_NAMED]
        )
        more = f", and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
        return "; ".join(named) + more

    def _estimate(self, counts: np.ndarray) -> float:
        """Bytes of all pixels, were every image as large as the first sound one."""
        total = int(counts.sum())
        if not total:
            raise InvalidInput("the datasets hold no images", field="datasets")
        with_images = (group for group, count in enumerate(counts) if count)
        for group in islice(with_images, 100):
            for data in self._corpus.encoded([group])[0]:
                try:
                    return float(self._decode(data).size) * total
                except DAMAGED:
                    continue
        raise InvalidInput(
            "none of the first images can be decoded; is this a set of images?", field="datasets"
        )

    def _decode_all(self, memory: int) -> "_Kept | None":
        """All images, or None once they turn out to be more than twice `memory`."""
        images: list[np.ndarray] = []
        used = 0
        for window in _windows(len(self._corpus.image_counts), 64 * _DECODERS):
            with_images = np.flatnonzero(self._corpus.image_counts[window.start : window.stop]) + window.start
            runs = self._fetchers.map(self._corpus.encoded, self._corpus.together(with_images))
            read = (images for run in runs for images in run)
            for part in self._decoders.map(self._decode_group, with_images.tolist(), read):
                images += part
                used += sum(image.size for image in part)
            if used > 2 * memory:
                return None
        return _Kept(images)

    def _decode_group(self, group: int, encoded: tuple[bytes, ...]) -> list[np.ndarray]:
        return [
            self._sound(group, encoded, number) for number in range(int(self._corpus.image_counts[group]))
        ]

    def _sound(self, group: int, encoded: tuple[bytes, ...], number: int) -> np.ndarray:
        """Image `number`, or the next one of the group that can be decoded; grey if none can."""
        for place in range(len(encoded)):
            tried = (number + place) % len(encoded)
            try:
                image = self._decode(encoded[tried])
            except DAMAGED as error:
                with self._lock:
                    self.damaged.setdefault((group, tried), why_damaged(error))
                continue
            with self._lock:
                self._decoded += 1
            return image
        size = self._resolution or 8
        return np.full((size, size, 3), _GREY, dtype=np.uint8)

    def _decode(self, data: bytes) -> np.ndarray:
        pixels = decode_image(data)
        shorter = min(pixels.shape[:2])
        if self._resolution is None or shorter <= self._resolution:
            return pixels
        height, width = (max(1, round(side * self._resolution / shorter)) for side in pixels.shape[:2])
        return resize(pixels, height, width)


class _Kept:
    """Decoded images; one tensor where all have one size."""

    def __init__(self, images: list[np.ndarray]) -> None:
        self._sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
        same = (self._sizes == self._sizes[0]).all()
        self._same = torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous() if same else None
        self._images = images if self._same is None else []

    def choose(self, places: np.ndarray) -> Pixels:
        if self._same is not None:
            return Pixels(self._same[torch.from_numpy(places)], self._sizes[places])
        return _pad(self.each(places))

    def each(self, places: np.ndarray) -> list[np.ndarray]:
        if self._same is not None:
            return list(self._same[torch.from_numpy(places)].permute(0, 2, 3, 1).contiguous().numpy())
        return [self._images[place] for place in places.tolist()]


def _pad(images: list[np.ndarray]) -> Pixels:
    sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
    height, width = sizes.max(0).tolist()
    padded = np.zeros((len(images), height, width, 3), dtype=np.uint8)
    for row, image in zip(padded, images, strict=True):
        row[: image.shape[0], : image.shape[1]] = image
    return Pixels(torch.from_numpy(padded).permute(0, 3, 1, 2), sizes)


def _windows(count: int, size: int) -> Iterator[range]:
    return (range(start, min(count, start + size)) for start in range(0, count, size))
