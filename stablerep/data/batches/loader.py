"""The rank's share of every step: its images, their labels, and how each view of them is to be augmented."""

import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from stablerep.config.augment import AugmentConfig
from stablerep.data.augment.parameters import UNIFORMS_PER_VIEW, ViewParameters, draw_parameters
from stablerep.data.batches.order import (
    AUGMENTATION,
    LOCAL,
    MASKS,
    Batch,
    BatchOrder,
    MixtureOrder,
    uniforms,
)
from stablerep.data.images import Fetch, ImageSource, Timer, plain_memory
from stablerep.errors import NotFound
from stablerep.methods.interface import LocalCrops

_ASK_SECONDS = 0.1
_SMALL = 96  # pixels: a smaller view is made in less time than threads take to hand Python's lock on
Tokenize = Callable[[Sequence[str]], tuple[Tensor, int]]


@dataclass(frozen=True)
class Texts:
    """What a text tower reads: the text of every label, and how texts become tokens."""

    texts: Sequence[str]
    tokenize: Tokenize


@dataclass(frozen=True)
class RankBatch:
    """n captions of a step with V views each, view-major: view 0 of all captions, then view 1, ...

    Attributes:
        images: uint8 [V*n 3 H W], still on the CPU: views if `augmented`, else images that are to be.
        labels: int64 [n]; `label_counts` [n] is how many captions of the whole batch have each.
        groups, numbers: int64 [C m], which images the whole batch drew, on all ranks.
        tokens: int64 [n longest], or None; `cut` texts were too long.
        noise: float32 [V*n patches], or None.
        local_parameters: how local crops of the images are augmented, L*V rows a caption, or None; those of
            view v are rows (v*L .. v*L + L - 1)*n.
        local_images: uint8 [L*V*n 3 s s], these crops, if `augmented`.
        seconds: that the batch took to make, by what they went to: read, decode, augment.
    """

    step: int
    views: int
    images: Tensor
    labels: Tensor
    label_counts: np.ndarray
    parameters: ViewParameters
    groups: np.ndarray
    numbers: np.ndarray
    tokens: Tensor | None = None
    cut: int = 0
    noise: Tensor | None = None
    local_parameters: ViewParameters | None = None
    augmented: bool = False
    local_images: Tensor | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class RankLoader:
    """Shares of the global batches for one of `ranks`; which captions and views is independent of `ranks`.

    `patches`: how many numbers of noise each view gets; 0: none. `texts`: None where no text is needed.
    `view_size`: views of that size are made here, on the CPU; None: on the device. `memory` of the images:
    pinned, a GPU reads it by itself; shared, another process has it, too. `counts_there`: how many images
    groups have, where that may be fewer than planned; it may wait for them.
    """

    order: BatchOrder | MixtureOrder
    source: ImageSource
    augment: AugmentConfig
    crops: int
    rank: int
    ranks: int
    patches: int = 0
    texts: Texts | None = field(default=None, repr=False)
    local: LocalCrops | None = None
    counts_there: Callable[[np.ndarray], np.ndarray] | None = None
    view_size: int | None = None
    memory: Literal["plain", "pinned", "shared"] = "plain"

    def share(self, step: int) -> RankBatch:
        """This rank's part of step `step`."""
        return self._finish(self._begin(step))

    def in_turn(self, first: int, end: int) -> Generator[RankBatch, None, None]:
        """The shares of steps first..end-1, the next one's images being read while one's are decoded."""
        ahead = 0 if self.counts_there else 1  # no step waits for images that only the next one needs
        begun: deque[_Begun] = deque()
        try:
            for step in range(first, end):
                while len(begun) <= ahead and step + len(begun) < end:
                    begun.append(self._begin(step + len(begun)))
                yield self._finish(begun.popleft())
        finally:
            for left in begun:
                left.fetch.cancel()

    def _begin(self, step: int) -> "_Begun":
        batch = self._complete(self.order.batch(step))
        size = len(batch.groups) // self.ranks
        mine = slice(self.rank * size, (self.rank + 1) * size)
        groups, numbers = (
            np.repeat(values[mine].T, self.crops, axis=0).reshape(-1)
            for values in (batch.groups, batch.images)
        )
        return _Begun(step, batch, mine, self.source.fetch(groups, numbers))

    def _finish(self, begun: "_Begun") -> RankBatch:
        step, batch, mine = begun.step, begun.batch, begun.mine
        captions, images = batch.groups.shape
        views = images * self.crops

        def drawn(stream: int, width: int, number: int = views) -> np.ndarray:
            uniform = uniforms(self.order.seed, stream, step, (number, captions, width))
            return uniform[:, mine].reshape(-1, width)

        timer = Timer()
        each, images, sizes = self._pixels(begun.fetch, timer)
        parameters = draw_parameters(self.augment, drawn(AUGMENTATION, UNIFORMS_PER_VIEW), sizes)
        local_parameters, local_images = self._local(drawn, views, sizes), None
        if each is not None:
            with timer.of("augment"):
                images = self._views(each, np.arange(len(each)), parameters, self.view_size)
                if local_parameters is not None and self.local is not None:
                    of_image = np.arange(len(each)).reshape(views, -1).repeat(self.local.number, axis=0)
                    local_images = self._views(each, of_image.ravel(), local_parameters, self.local.size)
        labels = batch.labels[mine]
        _, position, counts = np.unique(batch.labels, return_inverse=True, return_counts=True)
        tokens, cut = (None, 0) if self.texts is None else self._tokens(self.texts, labels)
        noise = torch.from_numpy(drawn(MASKS, self.patches)).float() if self.patches else None
        return RankBatch(
            step=step,
            views=views,
            images=images.pin_memory() if self.memory == "pinned" else images,
            labels=torch.from_numpy(labels),
            label_counts=counts[position][mine],
            parameters=parameters,
            groups=batch.groups,
            numbers=batch.images,
            tokens=tokens,
            cut=cut,
            noise=noise,
            local_parameters=local_parameters,
            augmented=each is not None,
            local_images=local_images,
            seconds=timer.seconds,
        )

    def shares(
        self,
        first: int,
        end: int,
        ahead: int,
        *,
        go_on: Callable[[bool], bool | None] | None = None,
    ) -> Generator[RankBatch, None, None]:
        """The shares of steps first..end-1, made `ahead` of time by a thread; 0: when they are asked for.

        `go_on` is asked before each one whether to take it, and told whether it is made: None asks again a
        little later, False ends.
        """
        if ahead == 0:
            return (self.share(step) for step in range(first, end))
        return _ahead(self, first, end, ahead, go_on)

    def _complete(self, batch: Batch) -> Batch:
        """The batch, with the next captions in the places of those whose images are not there for good."""
        if self.counts_there is None:
            return batch
        for _ in range(len(self.order.sets)):
            missing = (
                batch.images >= self.counts_there(batch.groups.reshape(-1)).reshape(batch.groups.shape)
            ).any(1)
            if not missing.any():
                return batch
            pools = batch.pools.copy()
            pools[missing] = self.order.after(pools[missing])
            batch = self.order.drawn_from(batch.step, pools)
        raise NotFound("no caption of the datasets has the images that a batch needs")

    def _pixels(self, fetch: Fetch, timer: Timer) -> tuple[list[np.ndarray] | None, Tensor, np.ndarray]:
        """The images one by one, if views are made of them here; else together; and their sizes."""
        if self.view_size is None:
            pixels = self.source.images(fetch, timer, _MEMORY[self.memory])
            return None, pixels.images, pixels.sizes
        each = self.source.each(fetch, timer)
        return each, torch.empty(0), np.array([image.shape[:2] for image in each], dtype=np.int64)

    def _views(
        self, images: list[np.ndarray], of_row: np.ndarray, parameters: ViewParameters, size: int | None
    ) -> Tensor:
        """Uint8 [n 3 size size]: the view of every row of the parameters, which is of image `of_row`."""
        from stablerep.data.augment.on_cpu import augment_view

        assert size is not None
        made = _MEMORY[self.memory]((len(of_row), size, size, 3))
        views = made.numpy()

        def make(row: int) -> None:
            views[row] = augment_view(images[of_row[row]], parameters, row, size)

        if size < _SMALL:
            for row in range(len(of_row)):
                make(row)
        else:
            self.source.in_threads(make, range(len(of_row)))
        return made.permute(0, 3, 1, 2)

    def _local(
        self, drawn: Callable[[int, int, int], np.ndarray], views: int, sizes: np.ndarray
    ) -> ViewParameters | None:
        if self.local is None:
            return None
        config = self.augment.model_copy(update={"crop_scale": self.local.scale})
        uniform = drawn(LOCAL, UNIFORMS_PER_VIEW, views * self.local.number)
        repeated = sizes.reshape(views, -1, 2).repeat(self.local.number, axis=0).reshape(-1, 2)
        return draw_parameters(config, uniform, repeated)

    def _tokens(self, texts: Texts, labels: np.ndarray) -> tuple[Tensor, int]:
        return texts.tokenize([texts.texts[label] for label in labels.tolist()])


@dataclass(frozen=True)
class _Begun:
    """A step's whole batch, which of its captions are this rank's, and their images on the way."""

    step: int
    batch: Batch
    mine: slice
    fetch: Fetch


def _pinned(shape: tuple[int, ...]) -> Tensor:
    return torch.empty(shape, dtype=torch.uint8, pin_memory=True)


def _shared(shape: tuple[int, ...]) -> Tensor:
    storage = torch.UntypedStorage._new_shared(math.prod(shape))  # as torch's own loader makes its batches
    return torch.empty(0, dtype=torch.uint8).set_(storage).view(shape)


_MEMORY = {"plain": plain_memory, "pinned": _pinned, "shared": _shared}


def _ahead(
    feed: RankLoader, first: int, end: int, ahead: int, go_on: Callable[[bool], bool | None] | None
) -> Generator[RankBatch, None, None]:
    made: queue.Queue[RankBatch | BaseException] = queue.Queue(ahead)
    abandoned = threading.Event()

    def offer(item: RankBatch | BaseException) -> None:
        while not abandoned.is_set():
            try:
                made.put(item, timeout=0.2)
            except queue.Full:
                continue
            return

    def work() -> None:
        try:
            for share in feed.in_turn(first, end):
                if abandoned.is_set():
                    return
                offer(share)
        except BaseException as error:  # noqa: BLE001  raised again in the thread that consumes
            offer(error)

    threading.Thread(target=work, name="feed", daemon=True).start()
    try:
        for _ in range(first, end):
            if go_on is not None and not _is_agreed(made, go_on):
                return
            item = made.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        abandoned.set()


def _is_agreed(made: "queue.Queue[RankBatch | BaseException]", go_on: Callable[[bool], bool | None]) -> bool:
    while True:
        answer = go_on(not made.empty())
        if answer is not None:
            return answer
        time.sleep(_ASK_SECONDS)
