"""Captions in, groups of images out: rows over (caption, image), in batches always padded to one shape."""

from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from stablerep.captions import Caption
from stablerep.errors import InvalidInput, StableRepError
from stablerep.generation.encode import encode_jpeg, to_bytes
from stablerep.generation.noise import noise_seed
from stablerep.generation.pipeline import LoadedPipeline, load_pipeline
from stablerep.generation.sampling import OnStep, make_sampler
from stablerep.jobs.recipe import Recipe
from stablerep.storage import Group, skipped_group

# A broken GPU stays broken for the process: no shard is to blame, and going on would fail them all. (torch
# before 2.8 has no class for it.)
_BROKEN_DEVICE: type[BaseException] = getattr(torch, "AcceleratorError", torch.OutOfMemoryError)


@dataclass
class _Unfinished:
    """A group on its way: None where an image is still to be made."""

    caption: Caption
    embedding: Any
    seeds: list[int]
    images: list[bytes | None]
    info: dict[str, Any] = field(default_factory=dict)
    error: str = ""

    @property
    def is_done(self) -> bool:
        return bool(self.error) or None not in self.images


@dataclass(frozen=True)
class _Row:
    """One image of one group, a row of a batch."""

    group: _Unfinished
    index: int

    @property
    def seed(self) -> int:
        return self.group.seeds[self.index]


class Generator:
    """Makes groups of images of a recipe; the pipeline is loaded once, at construction.

        for group in Generator(load_recipe("tiny")).generate(["a grey boot", "a light dress"]):
            group.images

    A group is a function of (recipe, seed, caption id, caption) alone on one kind of hardware, whatever
    stands beside it in a batch: noise is drawn per image on the CPU, captions are embedded one by one and
    batches always have `recipe.batch_images` rows (kernels differ in the last bit between shapes). The
    exception is a batch made smaller, by `batch_limit` or for want of memory: the group's `info` then says
    `batch_images`.

    Args:
        recipe: how images are made.
        seed: the job's; with caption id and image index it decides the noise. -2^63 to 2^63 - 1.
        device: such as "cuda:1"; None or empty: the best there is. Ignored if `pipeline` is given.
        pipeline: one already loaded that `fits` the recipe.
        batch_limit: upper bound of images in a batch, for a GPU too small for the recipe's; 0: none.

    Raises InvalidInput and NotFound, see `load_pipeline` and `make_sampler`.
    """

    def __init__(
        self,
        recipe: Recipe,
        *,
        seed: int = 0,
        device: torch.device | str | None = None,
        pipeline: LoadedPipeline | None = None,
        batch_limit: int = 0,
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
        self.batch_images = min(recipe.batch_images, batch_limit or recipe.batch_images)
        self._sampler = make_sampler(self.pipeline, recipe)

    def generate(
        self, captions: Iterable[str | Caption], *, on_step: OnStep | None = None
    ) -> Iterator[Group]:
        """Yields the groups in the captions' order, some after each batch; captions are drawn as needed.

        A caption that cannot be embedded, or whose images are not finite, gives a group without images whose
        `info` has an `error`. Plain strings have ids 0, 1, ...

        Args:
            captions: texts, or captions with the ids that they have in their source.
            on_step: called after each denoising step; what it raises ends the generation.

        Raises:
            StableRepError: the pipeline failed on a batch, or memory does not suffice even for one image.
        """
        waiting: deque[_Unfinished] = deque()
        rows: list[_Row] = []
        for caption in _with_ids(captions):
            group = self._begin(caption)
            waiting.append(group)
            if not group.error:
                rows += [_Row(group, index) for index in range(self.recipe.images_per_caption)]
            while len(rows) >= self.batch_images:
                self._finish(rows, on_step)
            yield from self._completed(waiting)
        while rows:
            self._finish(rows, on_step)
            yield from self._completed(waiting)

    def latents(self, captions: Iterable[str | Caption]) -> Tensor:
        """What the sampler makes of the captions before decoding, [captions x images c h w]; for inspection.

        Raises whatever a caption's embedding raises: nothing is skipped here.
        """
        groups = [self._embed(caption) for caption in _with_ids(captions)]
        rows = [_Row(group, index) for group in groups for index in range(len(group.seeds))]
        samples = []
        for start in range(0, len(rows), self.batch_images):
            batch = rows[start : start + self.batch_images]
            samples.append(self._sample(batch, None)[: len(batch)])
        return torch.cat(samples)

    def _begin(self, caption: Caption) -> _Unfinished:
        try:
            return self._embed(caption)
        except torch.OutOfMemoryError as error:
            raise StableRepError(f"out of memory while encoding text: {_describe(error)}") from error
        except _BROKEN_DEVICE:
            raise
        except (ValueError, TypeError, RuntimeError, LookupError) as error:  # UnicodeError is a ValueError
            return _Unfinished(caption, None, [], [], error=f"text encoding failed: {_describe(error)}")

    def _embed(self, caption: Caption) -> _Unfinished:
        count = self.recipe.images_per_caption
        seeds = [noise_seed(self.seed, caption.id, index) for index in range(count)]
        info: dict[str, Any] = {"recipe_digest": self.recipe.digest, "seeds": seeds}
        if self._sampler.is_truncated(caption.text):
            info["truncated"] = True
        return _Unfinished(caption, self._sampler.embed(caption.text), seeds, [None] * count, info)

    def _finish(self, rows: list[_Row], on_step: OnStep | None) -> None:
        """Makes the images of the first batch of rows and takes those rows off the list."""
        batch = rows[: self.batch_images]
        try:
            images = self._sampler.decode(self._sample(batch, on_step))
        except torch.OutOfMemoryError as error:
            self._halve_batch(error)
            return
        except _BROKEN_DEVICE:
            raise
        except (RuntimeError, ValueError, TypeError) as error:
            raise StableRepError(f"{self.recipe.model} failed on a batch: {_describe(error)}") from error
        self._encode(batch, images[: len(batch)])
        del rows[: len(batch)]

    def _sample(self, batch: Sequence[_Row], on_step: OnStep | None) -> Tensor:
        """Samples of a batch, padded by repeating its last row; the padding is still in the result."""
        padded = [*batch, *[batch[-1]] * (self.batch_images - len(batch))]
        return self._sampler.sample(
            [row.group.embedding for row in padded], [row.seed for row in padded], on_step
        )

    def _halve_batch(self, error: torch.OutOfMemoryError) -> None:
        if self.batch_images == 1:
            raise StableRepError(
                f"out of memory with one image of {self.recipe.image_size} pixels: {_describe(error)}"
            ) from error
        self.batch_images //= 2
        if self.pipeline.device.type == "cuda":
            torch.cuda.empty_cache()

    def _encode(self, batch: Sequence[_Row], images: Tensor) -> None:
        finite = images.isfinite().flatten(1).all(dim=1).tolist()
        for row, pixels, is_finite in zip(batch, to_bytes(images), finite, strict=True):
            if not is_finite:
                row.group.error = (
                    f"image {row.index} is not finite: the pipeline overflowed in {self.recipe.dtype}"
                )
                continue
            row.group.images[row.index] = encode_jpeg(
                pixels, save_size=self.recipe.save_size, quality=self.recipe.jpeg_quality
            )
            if self.batch_images != self.recipe.batch_images:
                row.group.info["batch_images"] = self.batch_images

    def _completed(self, waiting: deque[_Unfinished]) -> Iterator[Group]:
        while waiting and waiting[0].is_done:
            group = waiting.popleft()
            id_, text = group.caption
            if group.error:
                yield skipped_group(id_, text, group.error)
            else:
                yield Group(id_, text, tuple(image for image in group.images if image), group.info)


def _with_ids(captions: Iterable[str | Caption]) -> Iterator[Caption]:
    for index, caption in enumerate(captions):
        yield Caption(index, caption) if isinstance(caption, str) else caption


def _describe(error: BaseException) -> str:
    text = f"{type(error).__name__}: {error}"[:500]
    return text.encode("utf-8", "backslashreplace").decode()
