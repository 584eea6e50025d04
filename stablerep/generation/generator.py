"""Captions in, groups of images out: rows over (caption, image), in batches always padded to one shape."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablerep.captions import Caption
from stablerep.config.recipe import Recipe
from stablerep.devices import short_of_memory
from stablerep.errors import InvalidInput, StableRepError
from stablerep.generation.batch_size import BatchSize
from stablerep.generation.compiled import Compiled
from stablerep.generation.encode import encode_jpeg
from stablerep.generation.faults import BROKEN_DEVICE, FAULTS
from stablerep.generation.in_flight import Launched, OnStage, StageTimes, send_to_host
from stablerep.generation.lanes import Lanes
from stablerep.generation.noise import noise_seed
from stablerep.generation.pending import GroupPixels, PendingGroup, Row, split_captions
from stablerep.generation.pipeline import LoadedPipeline, load_pipeline
from stablerep.generation.samplers import OnStep, make_sampler
from stablerep.shards import Group, skipped_group

HARMLESS = "a photo"
"""Where a pipeline fails on this caption as well, it is the pipeline that is at fault."""


class _Run:
    """One call of `generate_pixels`: its batches in flight, and the times of the one to be launched next."""

    def __init__(self, device: torch.device, on_step: OnStep | None) -> None:
        self.on_step = on_step
        self.in_flight: deque[Launched] = deque()
        self.times = StageTimes(device)


class Generator:
    """Makes groups of images of a recipe; the pipeline is loaded once, at construction.

        for group in Generator(load_recipe("tiny")).generate(["a grey boot", "a light dress"]):
            group.images

    A group is a function of (recipe, seed, caption id, caption) alone on one kind of hardware, whatever
    else is in its batch: noise is drawn per image on the CPU, captions are embedded one by one, batches
    always have `recipe.batch_images` rows (kernels differ in the last bit between shapes), and a group always
    has the same places in a batch (on a GPU they differ between places, too). The exception is a batch made
    smaller, by `batch_limit` or for want of memory: the group's `info` then says `batch_images`.

    Args:
        recipe: how images are made.
        seed: the job's; with caption id and image index it decides the noise. -2^63 to 2^63 - 1.
        device: such as "cuda:1"; None or empty: the best there is. Ignored if `pipeline` is given.
        pipeline: one already loaded that `fits` the recipe.
        compiled: the pipeline's networks, compiled for the recipe (`compile_networks`); the groups' `info`
            then says by which artifact: bytes are the same for the same one. Batches are no larger than those
            that they were compiled for.
        batch_limit: upper bound of images in a batch, for a GPU too small for the recipe's; 0: none.
        on_stage: called with the seconds of each stage.
        on_halved: called when a batch is halved for want of memory.
        ahead: batches that are launched before one's images are waited for, so that a GPU need not wait for
            the host between them; groups come that much later. None: one on a GPU, else none.
        lanes: whether a GPU embeds captions and decodes images beside the denoising of other batches.

    Raises InvalidInput, NotFound and Unavailable, see `load_pipeline` and `make_sampler`.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        pipeline: LoadedPipeline | None = None,
        compiled: Compiled | None = None,
        batch_limit: int = 0,
        on_stage: OnStage | None = None,
        on_halved: Callable[[], None] | None = None,
        ahead: int | None = None,
        lanes: bool = True,
    ) -> None:
        if not -(2**63) <= seed < 2**63:
            raise InvalidInput(f"{seed} does not fit into 64 bits", field="seed")
        if pipeline is not None and not pipeline.fits(recipe):
            raise InvalidInput(
                f"{pipeline.model} is loaded, the recipe wants {recipe.model}", field="pipeline"
            )
        self.recipe = recipe
        self.seed = seed
        self.pipeline = pipeline or load_pipeline(recipe, device)
        limits = (recipe.batch_images, batch_limit, compiled.batch if compiled else 0)
        self._size = BatchSize(min(limit for limit in limits if limit))
        self._on_stage = on_stage
        self._on_halved = on_halved
        self._ahead = int(self.pipeline.device.type == "cuda") if ahead is None else ahead
        self._compiled = compiled
        self._sampler = make_sampler(self.pipeline, recipe, compiled.networks if compiled else None)
        self._lanes = Lanes(self.pipeline.device, wanted=lanes)

    @property
    def batch_images(self) -> int:
        """Images in a batch now; fewer than the recipe's after a halving."""
        return self._size.now

    def generate(
        self, captions: Iterable[str | Caption], *, on_step: OnStep | None = None
    ) -> Iterator[Group]:
        """Yields the groups in the captions' order, some after each batch; captions are taken as needed.

        A caption that cannot be embedded, on which the pipeline fails, or whose images are not finite, gives
        a group without images whose `info` has an `error`. Plain strings have ids 0, 1, ...

        Args:
            captions: texts, or captions with the ids that they have in their source.
            on_step: called after each denoising step; what it raises ends the generation.

        Raises:
            StableRepError: the pipeline fails whatever the caption, or memory does not suffice even for one
                image.
        """
        for group_pixels in self.generate_pixels(captions, on_step=on_step):
            yield self.encode(group_pixels)

    def generate_pixels(
        self, captions: Iterable[str | Caption], *, on_step: OnStep | None = None
    ) -> Iterator[GroupPixels]:
        """As `generate`, but the groups are still to be encoded, by any thread: the GPU's need not wait."""
        self._size.begin()
        run = _Run(self.pipeline.device, on_step)
        waiting: deque[PendingGroup] = deque()
        rows: list[Row] = []
        for caption in _with_ids(captions):
            group = self._begin(caption, run)
            waiting.append(group)
            if not group.error:
                rows += group.rows()
            while (count := self._whole_batch(rows)) > 0:
                rows = self._generate_first(rows, count, run)
            yield from _completed(waiting)
        while rows:
            rows = self._generate_first(rows, self._whole_batch(rows, ended=True), run)
            yield from _completed(waiting)
        self._land(run, left=0)
        yield from _completed(waiting)

    def _whole_batch(self, rows: Sequence[Row], *, ended: bool = False) -> int:
        """How many of the rows are a batch to which none can be added; all the rest if they `ended`."""
        size = self.recipe.batch_images
        if self.recipe.layout == "packed":
            whole = min(len(rows), self.batch_images)
            return whole if ended or whole == self.batch_images else 0
        for count, row in enumerate(rows):
            if row.batch(size) != rows[0].batch(size):
                return count
            if row.place(size) == size - 1:
                return count + 1
        return len(rows) if ended else 0

    def encode(self, group_pixels: GroupPixels) -> Group:
        """The group with its images as JPEG files. Any thread may call."""
        id_, text = group_pixels.caption
        if group_pixels.error:
            return skipped_group(id_, text, group_pixels.error)
        recipe = self.recipe
        began = time.perf_counter()
        encoded = tuple(
            encode_jpeg(pixels, save_size=recipe.save_size, quality=recipe.jpeg_quality)
            for pixels in group_pixels.pixels
        )
        if self._on_stage is not None:
            self._on_stage("encode", time.perf_counter() - began)
        return Group(id_, text, encoded, group_pixels.info)

    def latents(self, captions: Iterable[str | Caption]) -> Tensor:
        """What the sampler makes of the captions before decoding, [captions x images c h w]; for inspection.

        Raises whatever a caption's embedding raises: nothing is skipped here.
        """
        rows = [row for caption in _with_ids(captions) for row in self._embed(caption).rows()]
        samples = []
        while rows:
            count = self._whole_batch(rows, ended=True)
            batch, rows = rows[:count], rows[count:]
            samples.append(self._sample(batch, None)[self._places(batch)])
        return torch.cat(samples)

    def _begin(self, caption: Caption, run: _Run) -> PendingGroup:
        try:
            with self._lanes.text(), run.times.timed("text"):
                return self._embed(caption)
        except FAULTS as error:  # UnicodeError is a ValueError
            if short_of_memory(error):
                raise StableRepError(f"out of memory while encoding text: {_describe(error)}") from error
            if isinstance(error, BROKEN_DEVICE):
                raise
            return PendingGroup(caption, None, [], [], error=f"text encoding failed: {_describe(error)}")

    def _embed(self, caption: Caption) -> PendingGroup:
        count = self.recipe.images_per_caption
        seeds = [noise_seed(self.seed, caption.id, index) for index in range(count)]
        info: dict[str, Any] = {"recipe_digest": self.recipe.digest, "seeds": seeds}
        if self._compiled is not None:
            info["compiled"] = self._compiled.artifact[:16]
        if self._sampler.is_truncated(caption.text):
            info["truncated"] = True
        return PendingGroup(caption, self._sampler.embed(caption.text), seeds, [None] * count, info)

    def _generate_first(self, rows: list[Row], count: int, run: _Run) -> list[Row]:
        """Generates the first `count` rows. Returns the rows still wanted, none of a group that failed."""
        self._generate_rows(rows[:count], run)
        self._land(run, left=self._ahead)
        return [row for row in rows[count:] if not row.group.error]

    def _generate_rows(self, rows: Sequence[Row], run: _Run, *, redone: bool = False) -> None:
        """Generates all these rows, in as many batches as memory asks for.

        Where a batch fails, its captions are tried again in halves until those that make it fail are found;
        `redone` for such a half. The others' images are what they would have been.
        """
        while rows:
            batch = rows[: self.batch_images]
            try:
                launched = self._launch(batch, run)
            except FAULTS as error:
                if not short_of_memory(error):
                    if isinstance(error, BROKEN_DEVICE):
                        raise
                    self._find_fault(batch, error, run, redone=redone)
                    rows = rows[len(batch) :]
                    continue
                shortage = _describe(error)  # the error itself would keep the batch's tensors in memory
            else:
                run.in_flight.append(launched)
                run.times = StageTimes(self.pipeline.device)
                rows = rows[len(batch) :]
                continue
            self._land(run, left=0)
            self._halve(shortage)

    def _find_fault(self, batch: Sequence[Row], error: Exception, run: _Run, *, redone: bool) -> None:
        if not redone:
            self._check_pipeline(error, run)
        parts = split_captions(batch)
        if len(parts) == 1:
            batch[0].group.error = f"{self.recipe.model} failed on it: {_describe(error)}"
            return
        for part in parts:
            self._generate_rows(part, run, redone=True)

    def _check_pipeline(self, error: Exception, run: _Run) -> None:
        """Raises StableRepError if a batch of a harmless caption fails, too: no caption is to blame then."""
        try:
            self._launch(self._embed(Caption(0, HARMLESS)).rows()[:1], run)
        except FAULTS as second:
            if short_of_memory(second):
                return  # that the images themselves run into, and halve their batch
            if isinstance(second, BROKEN_DEVICE):
                raise
            raise StableRepError(f"{self.recipe.model} failed on a batch: {_describe(error)}") from error

    def _launch(self, batch: Sequence[Row], run: _Run) -> Launched:
        """Everything of a batch, on its way to the host."""
        with run.times.timed("denoise"):
            samples = self._sample(batch, run.on_step)
        with self._lanes.decoding(samples):
            with run.times.timed("decode"):
                images = self._sampler.decode(samples)
            return send_to_host(images, batch, self._places(batch), run.times)

    def _places(self, batch: Sequence[Row]) -> list[int]:
        """Each row's place in the batch that is sampled; in a halved one they are packed."""
        size = self.recipe.batch_images
        if self.recipe.layout == "packed" or self.batch_images != size:
            return list(range(len(batch)))
        return [row.place(size) for row in batch]

    def _sample(self, batch: Sequence[Row], on_step: OnStep | None) -> Tensor:
        """Samples of a batch, empty places filled by its last row; these are still in the result."""
        padded = [batch[-1]] * self.batch_images
        for place, row in zip(self._places(batch), batch, strict=True):
            padded[place] = row
        embeddings = [row.group.embedding for row in padded]
        self._lanes.wait_for_text(tensor for each in embeddings for tensor in self._sampler.tensors(each))
        return self._sampler.sample(embeddings, [row.seed for row in padded], on_step)

    def _halve(self, shortage: str) -> None:
        if not self._size.halve():
            raise StableRepError(
                f"out of memory with one image of {self.recipe.image_size} pixels: {shortage}"
            )
        if self.pipeline.device.type == "cuda":
            torch.cuda.empty_cache()
        if self._on_halved is not None:
            self._on_halved()

    def _land(self, run: _Run, *, left: int) -> None:
        """Waits for the images of all batches but the last `left`, and puts them into their groups."""
        while len(run.in_flight) > left:
            launched = run.in_flight.popleft()
            for row, pixels, is_finite in launched.images():
                self._keep(row, pixels, is_finite, launched.batch_images)
            if self._on_stage is not None:
                launched.times.report(self._on_stage)

    def _keep(self, row: Row, pixels: np.ndarray, is_finite: bool, batch_images: int) -> None:
        if not is_finite:
            message = f"image {row.index} is not finite: the pipeline overflowed in {self.recipe.dtype}"
            row.group.error = message
            return
        row.group.pixels[row.index] = pixels
        if batch_images != self.recipe.batch_images:
            row.group.info["batch_images"] = batch_images
        if self._compiled is not None and batch_images != self._compiled.batch:
            row.group.info.pop("compiled", None)


def _completed(waiting: deque[PendingGroup]) -> Iterator[GroupPixels]:
    while waiting and waiting[0].is_done:
        yield waiting.popleft().group_pixels()


def _with_ids(captions: Iterable[str | Caption]) -> Iterator[Caption]:
    for index, caption in enumerate(captions):
        yield Caption(index, caption) if isinstance(caption, str) else caption


def _describe(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"[:500]
    return text.encode("utf-8", "backslashreplace").decode()
