"""A recipe, all that decides an image besides caption and seed, and the presets shipped with the package."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stablerep.config import loading
from stablerep.errors import InvalidInput

MAX_CAPTIONS_PER_SHARD = 10_000
_SHARD_SIZES = ("images_per_shard", "captions_per_shard")
"""Either says how large shards are. Images are the work: fewer a caption are more captions a shard."""
_IMAGES_PER_SHARD = 160


class Recipe(BaseModel):
    """How an image is made; two datasets with one digest were made the same way.

    Ranges are those of `Recipe` in `proto/stablerep/v1/generation.proto`; build one from text with
    `load_recipe`, which turns what pydantic finds wrong into `InvalidInput`.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = Field(min_length=1, max_length=512, pattern=r"^[^\x00-\x1f\x7f]+$")
    revision: str = Field(default="", max_length=128, pattern=r"^[^\x00-\x1f\x7f]*$")
    sampler: Literal["ddim", "dpm++", "pipeline"]
    steps: int = Field(ge=1, le=1000)
    guidance_scale: float = Field(ge=0, le=50)
    image_size: int = Field(ge=8, le=4096, multiple_of=8)
    save_size: int = Field(ge=8, le=4096)
    images_per_caption: int = Field(ge=1, le=99)
    batch_images: int = Field(ge=1, le=4096)
    jpeg_quality: int = Field(ge=1, le=100)
    dtype: Literal["float32", "float16", "bfloat16"]
    guidance_until: float = Field(default=1.0, gt=0, le=1)
    """Share of the steps, from the first, with guidance; the others cost half."""
    schedule: Literal["", "ays"] = ""
    """Timesteps: the sampler's own, or the ten of Align Your Steps (Sabour et al. 2024) for dpm++."""
    layout: Literal["slots", "packed"] = "packed"
    """Where a group's images are in a batch, since kernels round differently from place to place.

    slots: caption id modulo groups a batch decides it; if a caption has more images than a batch, image k is
    in place k modulo batch_images. packed: one image behind the other, as before there were slots.
    """

    @model_validator(mode="after")
    def _fits_slots(self) -> "Recipe":
        images, batch = self.images_per_caption, self.batch_images
        if self.layout == "slots" and batch % images and images % batch:
            fitting = [n for n in range(1, 2 * max(images, batch) + 1) if n % images == 0 or images % n == 0]
            below, above = max(n for n in fitting if n < batch), min(n for n in fitting if n > batch)
            raise ValueError(
                f"batch_images {batch} does not fit {images} images a caption; the nearest that do are "
                f"{below} and {above}"
            )
        return self

    @model_validator(mode="after")
    def _schedule_fits(self) -> "Recipe":
        if self.schedule == "ays" and (self.sampler, self.steps) != ("dpm++", 10):
            raise ValueError(f"schedule ays has 10 steps of dpm++, not {self.steps} of {self.sampler}")
        return self

    @model_validator(mode="after")
    def _saved_no_larger_than_made(self) -> "Recipe":
        if self.save_size > self.image_size:
            raise ValueError(f"save_size {self.save_size} is larger than image_size {self.image_size}")
        return self

    @cached_property
    def digest(self) -> str:
        """SHA-256, in hexadecimal, of all fields as canonical JSON; fields that came later only if set."""
        later = ("layout", "guidance_until", "schedule")
        fields = self.model_dump()
        fields = {k: v for k, v in fields.items() if k not in later or v != Recipe.model_fields[k].default}
        canonical = json.dumps(fields, sort_keys=True, separators=(",", ":"))
        return hashlib.sha256(canonical.encode()).hexdigest()


@dataclass(frozen=True)
class Preset:
    """A recipe and the shard size that suits its speed, which is a job's setting and outside the digest."""

    recipe: Recipe
    captions_per_shard: int


def preset_names() -> list[str]:
    """Names of the presets shipped with the package."""
    return loading.preset_names("generation")


def load_preset(name: str, overrides: Mapping[str, str] | None = None) -> Preset:
    """The preset called `name`, some recipe fields replaced; never opens a file outside the package.

    Raises `InvalidInput` with `field="preset"` for an unknown name, or with the field that is wrong.
    """
    return _build(loading.read_preset("generation", name), overrides or {})


def load_recipe_file(path: Path, overrides: Mapping[str, str] | None = None) -> Preset:
    """A recipe in a YAML file: the keys of `Recipe`, maybe `images_per_shard` or `captions_per_shard`.

    A key `preset: NAME` fills in whatever the file leaves out. Raises `InvalidInput` naming the wrong field.
    """
    values = loading.read_mapping(path, "preset")
    base: dict[str, Any] = {}
    if "preset" in values:
        base = loading.read_preset("generation", str(values.pop("preset")))
    if values.keys() & set(_SHARD_SIZES):
        base = {name: value for name, value in base.items() if name not in _SHARD_SIZES}
    return _build(_over(base, values), overrides or {})


def load(source: str, overrides: Mapping[str, str] | None = None) -> Preset:
    """The preset called `source`, or the recipe file there if it ends in .yaml or .yml or has a slash."""
    if source.endswith((".yaml", ".yml")) or "/" in source:
        return load_recipe_file(Path(source), overrides)
    return load_preset(source, overrides)


def load_recipe(source: str, overrides: Mapping[str, str] | None = None) -> Recipe:
    """Like `load`, for callers that cut no shards: `load_recipe("sd15", {"guidance_scale": "8"})`."""
    return load(source, overrides).recipe


def _over(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """`base` with `changes`; a revision is one of its model, so another model begins without."""
    fields = {**base, **changes}
    if "revision" not in changes and fields.get("model") != base.get("model"):
        fields["revision"] = ""
    return fields


def _build(values: dict[str, Any], overrides: Mapping[str, str]) -> Preset:
    for name in overrides:
        if name in _SHARD_SIZES:
            raise InvalidInput("is a setting of the job, not of the recipe", field=name)
        if name not in Recipe.model_fields:
            raise InvalidInput(f"no such field; a recipe has {', '.join(Recipe.model_fields)}", field=name)
    fields = _over(values, overrides)
    images, captions = (fields.pop(name, None) for name in _SHARD_SIZES)
    fields.setdefault("layout", "slots")
    try:
        recipe = Recipe.model_validate(fields)
    except ValidationError as error:
        raise _invalid(error) from error
    if captions is None:
        captions = _captions_for(_IMAGES_PER_SHARD if images is None else images, recipe)
    return Preset(recipe, check_captions_per_shard(captions))


def _captions_for(images: Any, recipe: Recipe) -> int:
    """How many captions have about so many images."""
    if type(images) is not int or images < 1:
        raise InvalidInput(f"{images!r} is no number of images from 1", field="images_per_shard")
    return min(MAX_CAPTIONS_PER_SHARD, max(1, images // recipe.images_per_caption))


def check_captions_per_shard(value: Any) -> int:
    """`value` if it is a whole number in 1..10,000, else `InvalidInput`."""
    if type(value) is not int or not 1 <= value <= MAX_CAPTIONS_PER_SHARD:
        raise InvalidInput(f"{value!r} is not in 1..{MAX_CAPTIONS_PER_SHARD}", field="captions_per_shard")
    return value


def _invalid(error: ValidationError) -> InvalidInput:
    first = error.errors(include_url=False)[0]
    if not first["loc"]:
        text = str(first["ctx"]["error"])
        return InvalidInput(text, field=text.partition(" ")[0])  # it begins with the field
    field = str(first["loc"][0])
    if first["type"] == "extra_forbidden":
        return InvalidInput(f"no such field; a recipe has {', '.join(Recipe.model_fields)}", field=field)
    if first["type"] == "missing":
        return InvalidInput("is missing; give it, or name a preset to take it from", field=field)
    return InvalidInput(f"{first['msg']}, not {first['input']!r}", field=field)
