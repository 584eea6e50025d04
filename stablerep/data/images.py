"""Pixels for a batch: decoded once and kept where they fit in memory, else read and decoded each time."""

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from stablerep.cores import cores
from stablerep.data.corpus.offsets import Offsets
from stablerep.data.corpus.positive_sets import Corpus
from stablerep.data.decode import decode_image, image_size, resize
from stablerep.data.files import DAMAGED, why_damaged
from stablerep.errors import InvalidInput

_FETCHES = 32  # groups asked of a store at once: at 30 ms each, a thousand a second
_DECODERS = min(8, cores())  # images decoded at once; threads without a core wait for Python's lock
_PARTS = 4  # of a batch to each decoder, so that one with dear images is not waited for
_NAMED = 5  # damaged images that a message names
_GREY = 128
Result = TypeVar("Result")
Memory = Callable[[tuple[int, ...]], Tensor]
"""Makes a uint8 tensor of a shape, with whatever is in its memory."""


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


@dataclass(frozen=True)
class Fetch:
    """Images that are being read, while something else is done.

    Attributes:
        groups, numbers: [u] the different ones, by their place among all images.
        places: [u] that place.
        of: [n] which of them each image that was asked for is.
        runs: their bytes, in order, once they are there.
    """

    groups: np.ndarray
    numbers: np.ndarray
    places: np.ndarray
    of: np.ndarray
    runs: Sequence[Future[list[list[bytes]]]]

    def cancel(self) -> None:
        """Reads nothing more of it than is being read."""
        for run in self.runs:
            run.cancel()


def plain_memory(shape: tuple[int, ...]) -> Tensor:
    """Of this process alone; numpy asks the system for large pages, which torch does not."""
    return torch.from_numpy(np.empty(shape, dtype=np.uint8))


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
        self._scratch = threading.local()
        self._one_size = True
        counts = corpus.image_counts
        self._offsets = Offsets(counts)
        self._kept: _Kept | None = None
        if memory is not None and self._estimate(counts) <= memory:
            self._kept = self._decode_all(memory)

    @property
    def kept(self) -> bool:
        """Whether all images are in memory, decoded."""
        return self._kept is not None

    def fetch(self, groups: np.ndarray, numbers: np.ndarray) -> Fetch:
        """Begins to read the image `numbers[i]` of group `groups[i]`, for [n] of both; waits for nothing."""
        places, first, of = np.unique(
            self._offsets.before(groups) + numbers, return_index=True, return_inverse=True
        )
        groups, numbers = groups[first], numbers[first]
        runs = [] if self._kept is not None else self._read(groups, numbers)
        return Fetch(groups, numbers, places, of, runs)

    def images(self, fetch: Fetch, timer: Timer | None = None, memory: Memory = plain_memory) -> Pixels:
        """The images together; in such memory, unless they are decoded already."""
        if self._kept is not None:
            return self._kept.choose(fetch.places[fetch.of])
        timer = timer or Timer()
        encoded = _wait(fetch, timer)
        with timer.of("decode"):
            size = self._likely_size(encoded)
            if size is None:
                return _pad(self._decode_each(fetch, encoded, [None] * len(encoded)), memory)
            batch = memory((len(fetch.of), *size, 3))
            rows = list(batch.numpy())
            first = np.unique(fetch.of, return_index=True)[1]
            images = self._decode_each(fetch, encoded, [rows[place] for place in first])
            if any(image.shape[:2] != size for image in images):
                return _pad(images, memory)
            for row, image in zip(rows, images, strict=True):
                if image is not row:
                    row[:] = image
            return Pixels(batch.permute(0, 3, 1, 2), np.tile(np.array(size, dtype=np.int64), (len(rows), 1)))

    def each(self, fetch: Fetch, timer: Timer | None = None) -> list[np.ndarray]:
        """The same images one by one, uint8 [h w 3]: until the thread that asked asks for others."""
        if self._kept is not None:
            return self._kept.each(fetch.places[fetch.of])
        timer = timer or Timer()
        encoded = _wait(fetch, timer)
        with timer.of("decode"):
            size = self._likely_size(encoded)
            rows = [None] * len(encoded) if size is None else list(self._scratch_for(len(encoded), *size))
            return self._decode_each(fetch, encoded, rows)

    def in_threads(self, work: Callable[[Any], Result], items: Sequence[Any]) -> list[Result]:
        """What `work` makes of each item, in order; the decoders share the items."""
        size = -(-len(items) // (_PARTS * _DECODERS))
        parts = [items[start : start + size] for start in range(0, len(items), size or 1)]
        return [
            made for part in self._decoders.map(lambda part: list(map(work, part)), parts) for made in part
        ]

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

    def _read(self, groups: np.ndarray, numbers: np.ndarray) -> list[Future[list[list[bytes]]]]:
        unique, starts = np.unique(groups, return_index=True)
        parts = [part.tolist() for part in np.split(numbers, starts[1:])]
        of_group = dict(zip(unique.tolist(), parts, strict=True))
        return [
            self._fetchers.submit(self._corpus.images, run, [of_group[group] for group in run])
            for run in self._corpus.together(unique)
        ]

    def _likely_size(self, encoded: Sequence[bytes]) -> tuple[int, int] | None:
        """That of most of the first images, if all images have had one size so far."""
        if not self._one_size:
            return None
        sizes = [self._size(data) for data in encoded[:3]]
        size = max(sizes, key=sizes.count)
        return size if 2 * sizes.count(size) > len(sizes) else None

    def _size(self, data: bytes) -> tuple[int, int] | None:
        try:
            return self._shrunk(*image_size(data))
        except DAMAGED:
            return None

    def _scratch_for(self, number: int, height: int, width: int) -> np.ndarray:
        """Memory of the calling thread, which a batch need not ask the system for page by page."""
        needed = number * height * width * 3
        if len(getattr(self._scratch, "memory", b"")) < needed:
            self._scratch.memory = np.empty(needed, dtype=np.uint8)
        memory: np.ndarray = self._scratch.memory
        return memory[:needed].reshape(number, height, width, 3)

    def _decode_each(
        self, fetch: Fetch, encoded: Sequence[bytes], rows: Sequence[np.ndarray | None]
    ) -> list[np.ndarray]:
        """The images that were asked for; the different ones are decoded into `rows` where they fit."""
        wanted = zip(fetch.groups.tolist(), fetch.numbers.tolist(), encoded, rows, strict=True)
        images = self.in_threads(lambda one: self._sound_one(*one), list(wanted))
        self._one_size &= len({image.shape for image in images}) == 1
        return [images[which] for which in fetch.of.tolist()]

    def _sound_one(self, group: int, number: int, data: bytes, into: np.ndarray | None) -> np.ndarray:
        try:
            image = self._decode(data, into)
        except DAMAGED:
            return self._sound(group, self._corpus.encoded([group])[0], number)
        with self._lock:
            self._decoded += 1
        return image

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

    def _decode(self, data: bytes, into: np.ndarray | None = None) -> np.ndarray:
        pixels = decode_image(data, into)
        return resize(pixels, *self._shrunk(*pixels.shape[:2]))

    def _shrunk(self, height: int, width: int) -> tuple[int, int]:
        shorter = min(height, width)
        if self._resolution is None or shorter <= self._resolution:
            return height, width
        return (
            max(1, round(height * self._resolution / shorter)),
            max(1, round(width * self._resolution / shorter)),
        )


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


def _wait(fetch: Fetch, timer: Timer) -> list[bytes]:
    with timer.of("read"):
        return [data for run in fetch.runs for images in run.result() for data in images]


def _pad(images: list[np.ndarray], memory: Memory = plain_memory) -> Pixels:
    sizes = np.array([image.shape[:2] for image in images], dtype=np.int64)
    batch = memory((len(images), *sizes.max(0).tolist(), 3))
    for row, image in zip(batch.numpy(), images, strict=True):
        height, width = image.shape[:2]
        row[:height, :width] = image
        row[height:] = 0
        row[:height, width:] = 0
    return Pixels(batch.permute(0, 3, 1, 2), sizes)


def _windows(count: int, size: int) -> Iterator[range]:
    return (range(start, min(count, start + size)) for start in range(0, count, size))
