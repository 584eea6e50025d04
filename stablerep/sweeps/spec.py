"""What a sweep is: datasets to make, a training, a probe, and the axes along which their settings change."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stablerep.config.loading import preset_names, put, read_mapping, read_preset
from stablerep.config.names import check_dataset
from stablerep.errors import InvalidInput

FIGURES = {"2": "guidance", "3": "data", "5": "captions"}
"""The paper's figures by the preset that draws each."""
Model = TypeVar("Model", bound=BaseModel)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Source(_Frozen):
    """Where a dataset comes from: one of `captions` (images are generated), `images`, `url`.

    Attributes:
        captions: what `stablerep submit` takes, or builtin:fashion, builtin:fashion-8000,
            builtin:fashion-no-noun.
        preset, recipe, limit, seed, captions_per_shard: as of `stablerep submit`.
        images: what `stablerep import` takes.
        url: a dataset that is there.
    """

    captions: str = ""
    preset: str = "tiny"
    recipe: dict[str, Any] = {}
    limit: int = Field(default=0, ge=0)
    seed: int = Field(default=0, ge=0)
    captions_per_shard: int = Field(default=0, ge=0)
    images: str = ""
    url: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        given = [name for name in ("captions", "images", "url") if getattr(self, name)]
        if len(given) != 1:
            raise ValueError(f"want one of captions, images and url, not {' and '.join(given) or 'none'}")
        return self


class Axis(_Frozen):
    """A setting that changes: each value's label, and the settings that it stands for.

    A plain `key` with a list of `values` is read as one setting a value.
    """

    title: str = ""
    values: dict[str, dict[str, Any]] = Field(min_length=1)

    @model_validator(mode="before")
    @classmethod
    def _expand(cls, content: Any) -> Any:
        if not isinstance(content, Mapping):
            return content
        values, key = content.get("values"), content.get("key")
        if not isinstance(key, str) or not isinstance(values, list):
            return content
        rest = {name: value for name, value in content.items() if name not in ("key", "values")}
        return {"title": key.rpartition(".")[2].replace("_", " "), **rest} | {
            "values": {str(value): {key: value} for value in values}
        }

    @property
    def numbers(self) -> list[float] | None:
        """The labels as numbers; None if some are none."""
        try:
            return [float(label) for label in self.values]
        except ValueError:
            return None


class ProbeSpec(_Frozen):
    """How every encoder is measured, as by `stablerep probe`; `scores` are those that are drawn."""

    data: str = "fashion"
    protocol: str = "frozen"
    seed: int = Field(default=0, ge=0)
    scores: dict[str, str] = {
        "few": "10 labels a class",
        "knn": "20 nearest neighbours",
        "linear": "all labels",
    }


class SweepSpec(_Frozen):
    """A sweep: every combination of the axes' values, each trained with `seeds` seeds and probed.

    Attributes:
        data: the datasets by name; `use` names those that are trained on, with weights if it is a mapping.
        train: `preset`, and overrides by dotted key, as of `stablerep train`.
        seeds: how many, from 0; or which, so that several machines can share a sweep.
        x: the axis along which the figure is drawn; `lines`: the one that has a line a value, if any.
        about: what the reader of the page should know.
    """

    title: str
    about: str = ""
    data: dict[str, dict[str, Any]] = Field(min_length=1)
    use: list[str] | dict[str, float]
    train: dict[str, Any] = {}
    probe: ProbeSpec = ProbeSpec()
    seeds: int | list[int] = 3
    axes: dict[str, Axis] = Field(min_length=1)
    x: str
    lines: str = ""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for field, name in (("x", self.x), ("lines", self.lines)):
            if name and name not in self.axes:
                raise ValueError(f"{field}: no axis {name!r}; there are {', '.join(self.axes)}")
        which = [self.seeds - 1] if isinstance(self.seeds, int) else self.seeds
        named = isinstance(self.seeds, list)
        if (
            not which
            or min(which) < 0
            or max(which) >= (2**63 if named else 100)
            or len({*which}) < len(which)
        ):
            raise ValueError("seeds: want a number from 1 to 100, or a list of different seeds from 0")
        left_out = self.axes.keys() - {self.x, self.lines}
        if left_out:
            raise ValueError(f"axes: {', '.join(sorted(left_out))} is neither x nor lines")
        return self

    @property
    def each_seed(self) -> list[int]:
        """The seeds that every point is trained with."""
        return list(range(self.seeds)) if isinstance(self.seeds, int) else self.seeds


@dataclass(frozen=True)
class Cell:
    """One point of the grid and one seed: labels by axis, and what they come to."""

    labels: dict[str, str]
    seed: int
    sources: dict[str, Source]
    weights: tuple[float, ...]
    train: dict[str, Any]


def cells(spec: SweepSpec) -> Iterator[Cell]:
    """All cells, seed by seed. Raises InvalidInput naming the setting that is wrong."""
    names = list(spec.axes)
    for seed in spec.each_seed:
        for labels in itertools.product(*(axis.values for axis in spec.axes.values())):
            chosen = dict(zip(names, labels, strict=True))
            settings: dict[str, Any] = {}
            for name, label in chosen.items():
                settings |= spec.axes[name].values[label]
            yield _cell(spec, chosen, seed, settings)


def _cell(spec: SweepSpec, labels: dict[str, str], seed: int, settings: Mapping[str, Any]) -> Cell:
    content: dict[str, Any] = {"use": spec.use, "data": _copied(spec.data)}
    train = {**spec.train, "seed": seed}
    for key in sorted(settings, key=lambda key: key.count(".")):
        first, _, rest = key.partition(".")
        if first == "train" and rest:
            # Another encoder or method, given whole, takes nothing of what the sweep says within the old one.
            train = {name: value for name, value in train.items() if not name.startswith(f"{rest}.")}
            train[rest] = settings[key]
        elif key == "use" or (first == "data" and rest):
            put(content, key, settings[key])
        else:
            raise InvalidInput("an axis sets train.*, data.* or use", field=key)
    use = content["use"]
    sources = {}
    for name in use:
        check_dataset(name)
        if name not in content["data"]:
            raise InvalidInput(f"no dataset {name!r}; there are {', '.join(content['data'])}", field="use")
        sources[name] = _validated(Source, content["data"][name], f"data.{name}")
    weights = tuple(float(use[name]) for name in use) if isinstance(use, dict) and len(use) > 1 else ()
    return Cell(labels, seed, sources, weights, train)


def sweep_presets() -> list[str]:
    """Names that `load_sweep` knows."""
    return preset_names("sweep")


def load_sweep(name: str, overrides: Mapping[str, Any] | None = None) -> tuple[str, SweepSpec]:
    """A sweep from a YAML file or a preset, the paper's figures by number, and what to call it.

    `overrides` by dotted key. Raises InvalidInput naming what is wrong.
    """
    name = FIGURES.get(name, name)
    if "/" not in name and name in sweep_presets():
        content, called = read_preset("sweep", name), name
    elif Path(name).is_file():
        content, called = read_mapping(Path(name), "sweep"), Path(name).stem
    else:
        known = ", ".join(sweep_presets())
        raise InvalidInput(f"{name!r} is neither a file nor one of {known}", field="sweep")
    for key, value in (overrides or {}).items():
        put(content, key, value)
    return check_dataset(called.lower().replace("_", "-")), _validated(SweepSpec, content, called)


def _validated(kind: type[Model], content: Any, where: str) -> Model:
    try:
        return kind.model_validate(content)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key = ".".join(str(part) for part in first["loc"])
        said = first["msg"].removeprefix("Value error, ")
        raise InvalidInput(f"{key + ': ' if key else ''}{said}", field=where) from None


def _copied(tree: Any) -> Any:
    return {key: _copied(value) for key, value in tree.items()} if isinstance(tree, dict) else tree
