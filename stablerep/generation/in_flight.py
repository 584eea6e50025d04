"""Batches that a GPU still works on: their images are waited for once the next batch has been launched."""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from stablerep.generation.encode import to_bytes
from stablerep.generation.pending import Row

Stage = Literal["text", "denoise", "decode", "encode"]
OnStage = Callable[[Stage, float], None]
"""Called with a stage and its seconds: text, denoise and decode of a batch, encode of a group."""

_Moment = float | torch.cuda.Event


class StageTimes:
    """What each stage of a batch took; on a GPU by marks among its own work, so that nothing waits."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._marks: list[tuple[Stage, _Moment, _Moment]] = []

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[None]:
        """What is launched inside is part of the stage."""
        begun = self._now()
        yield
        self._marks.append((stage, begun, self._now()))

    def report(self, on_stage: OnStage) -> None:
        """Each stage once, with its seconds. On a GPU the work must be over."""
        for stage in dict.fromkeys(("text", *(stage for stage, _, _ in self._marks))):
            on_stage(stage, sum(_between(a, b) for its, a, b in self._marks if its == stage))

    def _now(self) -> _Moment:
        if self._device.type != "cuda":
            return time.perf_counter()
        mark = torch.cuda.Event(enable_timing=True)
        mark.record(torch.cuda.current_stream(self._device))
        return mark


def _between(begun: Any, ended: Any) -> float:
    """Seconds between two moments of one kind."""
    return ended - begun if isinstance(begun, float) else begun.elapsed_time(ended) / 1000


@dataclass(frozen=True)
class Launched:
    """A batch whose images are on their way to the host.

    Attributes:
        rows: its images' groups, the padding left out.
        places: where each is in the batch.
        batch_images: images that it had, with the padding.
    """

    rows: Sequence[Row]
    places: Sequence[int]
    batch_images: int
    times: StageTimes
    _pixels: Tensor
    _finite: Tensor
    _there: torch.cuda.Event | None

    def images(self) -> Iterator[tuple[Row, np.ndarray, bool]]:
        """Each row's pixels, uint8 [h w 3], and whether the pipeline's were finite. Waits for them."""
        if self._there is not None:
            self._there.synchronize()
        pixels, finite = self._pixels.numpy(), self._finite.tolist()
        for row, place in zip(self.rows, self.places, strict=True):
            yield row, pixels[place], finite[place]


def send_to_host(images: Tensor, rows: Sequence[Row], places: Sequence[int], times: StageTimes) -> Launched:
    """Rounds a batch's images, float [n 3 h w], to bytes on their device; begins to copy them to the host.

    All of them: to pick rows on a GPU, their places would have to be copied there: a wait.
    """
    finite, pixels = images.isfinite().flatten(1).all(dim=1), to_bytes(images)
    there = None
    if images.device.type == "cuda":
        # Such a copy goes to memory that the GPU writes by itself; the event is behind it in the same order.
        finite, pixels = (tensor.to("cpu", non_blocking=True) for tensor in (finite, pixels))
        there = torch.cuda.Event()
        there.record(torch.cuda.current_stream(images.device))
    return Launched(rows, places, len(images), times, pixels.cpu(), finite.cpu(), there)
