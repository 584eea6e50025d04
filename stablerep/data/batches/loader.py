"""The rank's share of every step: its images, their labels, and how each view of them is to be augmented."""

import queue
import threading
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from stablerep.config.augment import AugmentConfig
from stablerep.data.augment.parameters import UNIFORMS_PER_VIEW, ViewParameters, draw_parameters
from stablerep.data.batches.order import AUGMENTATION, BatchOrder, uniforms
from stablerep.data.images import ImageSource


@dataclass(frozen=True)
class RankBatch:
    """n captions of a step with V views each, view-major: view 0 of all captions, then view 1, ...

    `images` is uint8 [V*n 3 H W], `labels` int64 [n]; both still on the CPU, not yet augmented.
    """

    step: int
    views: int
    images: Tensor
    labels: Tensor
    parameters: ViewParameters


@dataclass(frozen=True)
class RankLoader:
    """Shares of the global batches for one of `ranks`; which captions and views is independent of `ranks`."""

    order: BatchOrder
    source: ImageSource
    augment: AugmentConfig
    crops: int
    rank: int
    ranks: int

    def share(self, step: int) -> RankBatch:
        """This rank's part of step `step`."""
        batch = self.order.batch(step)
        captions, images = batch.groups.shape
        size = captions // self.ranks
        mine = slice(self.rank * size, (self.rank + 1) * size)
        groups, numbers = (
            np.repeat(values[mine].T, self.crops, axis=0).reshape(-1)
            for values in (batch.groups, batch.images)
        )
        views = images * self.crops
        uniform = uniforms(self.order.seed, AUGMENTATION, step, (views, captions, UNIFORMS_PER_VIEW))
        own = uniform[:, mine].reshape(-1, UNIFORMS_PER_VIEW)
        return RankBatch(
            step=step,
            views=views,
            images=self.source.images(groups, numbers),
            labels=torch.from_numpy(batch.labels[mine]),
            parameters=draw_parameters(self.augment, own, self.source.size),
        )

    def shares(self, first: int, end: int, ahead: int) -> Iterator[RankBatch]:
        """The shares of steps first..end-1, made `ahead` of time by a thread; 0: when they are asked for."""
        if ahead == 0:
            return (self.share(step) for step in range(first, end))
        return _ahead(self, first, end, ahead)


def _ahead(feed: RankLoader, first: int, end: int, ahead: int) -> Iterator[RankBatch]:
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
            for step in range(first, end):
                if abandoned.is_set():
                    return
                offer(feed.share(step))
        except BaseException as error:  # noqa: BLE001  raised again in the thread that consumes
            offer(error)

    threading.Thread(target=work, name="feed", daemon=True).start()
    try:
        for _ in range(first, end):
            item = made.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        abandoned.set()
