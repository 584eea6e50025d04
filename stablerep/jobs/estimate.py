"""Estimates a job's cost before it is submitted: images, GPU-hours, storage, shards, Redis memory.

Every figure that is not counted says where it comes from: a measurement, a report, or a named assumption.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import pairwise

from stablerep.captions import Caption
from stablerep.config.recipe import Preset, Recipe
from stablerep.errors import InvalidInput

REPORTED_SECONDS = {"a100": 0.8, "v100": 2.2}
"""Seconds an image of Stable Diffusion 1.5, 512 x 512, 50 steps of DDIM with guidance, half precision, with
xFormers, as summaries of the paper report them (Tian et al. 2023); read in no document of the authors."""
_REPORTED_STEPS = 50
_SD15 = ("stable-diffusion-v1-5", "stable-diffusion-v1.5", "sd-v1-5")
# JPEG, 4:2:0, of two photographs (scikit-learn's samples, six crops of 256 x 256): quality, bytes a pixel
# without headers.
_BYTES_A_PIXEL = ((1, 0.03), (50, 0.116), (75, 0.174), (85, 0.235), (90, 0.295), (95, 0.424), (100, 0.86))
_JPEG_HEADERS = 620
# Beside the JPEG itself, from the layout of a shard: a header and padding to 512 bytes, and its entry in the
# index; a group's JSON likewise, with its captions; the end of a tar, which fills a record of 10,240 bytes.
_BYTES_AN_IMAGE = 512 + 256 + 20
_BYTES_A_GROUP = 512 + 512 + 150
_BYTES_A_SHARD = 10_240 // 2 + 1024 + 150
# `tests/integration/queue/test_queue_control.py` measures these: a job's hash, a bit a shard, a lease.
_REDIS_JOB, _REDIS_LEASE = 2_000, 400
LEASES = 64
_KEPT = 256
"""Captions kept of those counted, to measure with."""


@dataclass(frozen=True)
class Figure:
    """A number and where it comes from."""

    value: float
    source: str


@dataclass(frozen=True)
class Counted:
    """How many captions a source holds that a job would take, and the first of them."""

    captions: int
    first: tuple[str, ...] = ()


@dataclass(frozen=True)
class Estimate:
    """A job's cost; `hours` of one GPU (or CPU worker), None where the speed is unknown."""

    captions: int
    images: int
    shards: int
    hours: Figure | None
    storage_bytes: Figure
    redis_bytes: int


def count_captions(captions: Iterable[Caption], on_count: Callable[[int], None] | None = None) -> Counted:
    """Counts captions as they come, in constant memory; `on_count` is called now and then."""
    count, first = 0, []
    for caption in captions:
        count += 1
        if count <= _KEPT:
            first.append(caption.text)
        if on_count is not None and count % 10_000 == 0:
            on_count(count)
    return Counted(count, tuple(first))


def reported_speed(recipe: Recipe, gpu: str) -> Figure | None:
    """Seconds an image as the paper's summaries report them; None for a recipe that they say nothing of.

    Args:
        gpu: a key of `REPORTED_SECONDS`; InvalidInput is raised for another.
    """
    seconds = REPORTED_SECONDS.get(gpu.lower())
    if seconds is None:
        known = ", ".join(REPORTED_SECONDS)
        raise InvalidInput(f"nothing is reported for {gpu!r}, only for {known}; measure instead", field="gpu")
    is_sd15 = any(name in recipe.model.lower() for name in _SD15)
    if not is_sd15 or recipe.image_size != 512 or recipe.dtype == "float32" or recipe.guidance_scale <= 1:
        return None
    text = f"reported for SD 1.5 on one {gpu.upper()} at {_REPORTED_STEPS} steps (paper, by its summaries)"
    if recipe.steps != _REPORTED_STEPS:
        text += f", scaled to {recipe.steps}"
    return Figure(seconds * recipe.steps / _REPORTED_STEPS, text)


def assumed_image_bytes(recipe: Recipe) -> Figure:
    """Bytes of a JPEG file as for photographs; synthetic images may be larger or smaller."""
    at = recipe.jpeg_quality
    low, high = next((low, high) for low, high in pairwise(_BYTES_A_PIXEL) if at <= high[0])
    per_pixel = low[1] + (high[1] - low[1]) * (at - low[0]) / (high[0] - low[0])
    size = _JPEG_HEADERS + per_pixel * recipe.save_size**2
    return Figure(size, f"assumed: photographs of {recipe.save_size} x {recipe.save_size} at quality {at}")


def images_in_batches(images: int, batch_images: int) -> int:
    """Images a GPU computes for `images` wanted ones: batches are padded to their full size."""
    return math.ceil(images / batch_images) * batch_images


def estimate_job(
    captions: int, preset: Preset, *, speed: Figure | None, image_bytes: Figure | None = None
) -> Estimate:
    """The cost of a job.

    Args:
        speed: seconds an image, with batches full; None: not known.
        image_bytes: bytes of one JPEG file; None: `assumed_image_bytes`.
    """
    recipe = preset.recipe
    size = image_bytes or assumed_image_bytes(recipe)
    images = captions * recipe.images_per_caption
    shards = math.ceil(captions / preset.captions_per_shard)
    whole, rest = divmod(captions, preset.captions_per_shard)
    made = whole * images_in_batches(
        preset.captions_per_shard * recipe.images_per_caption, recipe.batch_images
    )
    made += images_in_batches(rest * recipe.images_per_caption, recipe.batch_images)
    storage = images * (size.value + _BYTES_AN_IMAGE) + captions * _BYTES_A_GROUP + shards * _BYTES_A_SHARD
    return Estimate(
        captions=captions,
        images=images,
        shards=shards,
        hours=Figure(made * speed.value / 3600, speed.source) if speed else None,
        storage_bytes=Figure(storage, f"{size.value:,.0f} bytes an image, {size.source}"),
        redis_bytes=_REDIS_JOB + math.ceil(shards / 8) + LEASES * _REDIS_LEASE,
    )
