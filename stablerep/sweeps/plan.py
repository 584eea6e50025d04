"""What a sweep makes: the datasets, trainings and probes of its cells, each once, under names of their own.

A name holds the digest of all that decides the content, so sweeps in one store share what they have in
common, and a sweep that was changed makes what is new alone.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from stablerep.config.recipe import Recipe, load
from stablerep.errors import InvalidInput
from stablerep.runs.config import TrainConfig, load_train_config
from stablerep.sweeps.spec import Source, SweepSpec, cells

BUILTIN_CAPTIONS = {
    "builtin:fashion": "fashion_captions.txt",
    "builtin:fashion-8000": "fashion_captions_8000.txt",
    "builtin:fashion-no-noun": "fashion_captions_no_noun.txt",
}
_LIST_BYTES = 64 << 20
"""Caption files up to this size are known by their content, larger ones by their name and size."""
_NOT_IN_A_NAME = {"run", "datasets", "threads", "prefetch", "decoded_bytes", "checkpoint_every", "log_every"}


@dataclass(frozen=True)
class Made:
    """A dataset: what it is called, or its URL where it is there already, and where it comes from."""

    name: str
    source: Source

    @property
    def recipe(self) -> Recipe:
        """How images of captions are made."""
        return load(self.source.preset, _texts(self.source.recipe)).recipe

    @property
    def captions(self) -> str:
        """What the job's captions are read from."""
        name = self.source.captions
        shipped = BUILTIN_CAPTIONS.get(name)
        return name if shipped is None else str(files("stablerep") / "assets" / shipped)


@dataclass(frozen=True)
class Training:
    """A run; `settings` over `preset` are what `stablerep train` would be given, but for run and datasets."""

    name: str
    datasets: tuple[str, ...]
    weights: tuple[float, ...]
    preset: str
    settings: dict[str, Any]
    config: TrainConfig


@dataclass(frozen=True)
class Point:
    """A cell of the grid and its training."""

    labels: dict[str, str]
    seed: int
    run: str


@dataclass(frozen=True)
class Plan:
    """A sweep with the names of all that it makes; datasets and trainings by name, in order of need."""

    name: str
    spec: SweepSpec
    datasets: dict[str, Made]
    trainings: dict[str, Training]
    points: tuple[Point, ...]


def make_plan(name: str, spec: SweepSpec, store: str) -> Plan:
    """The plan over the store at this URL. Raises InvalidInput for settings that cannot be trained."""
    datasets: dict[str, Made] = {}
    trainings: dict[str, Training] = {}
    points = []
    for cell in cells(spec):
        made = [_dataset(label, source) for label, source in cell.sources.items()]
        datasets.update({one.name: one for one in made})
        training = _training(cell.train, [one.name for one in made], cell.weights, store)
        trainings.setdefault(training.name, training)
        points.append(Point(cell.labels, cell.seed, training.name))
    return Plan(name, spec, datasets, trainings, tuple(points))


def dataset_url(store: str, name: str) -> str:
    """The URL of a dataset of the store; one that is a URL or a path is its own."""
    return name if "/" in name else f"{store}/datasets/{name}"


def _dataset(label: str, source: Source) -> Made:
    if source.url:
        return Made(source.url.rstrip("/"), source)
    if source.captions.startswith("builtin:") and source.captions not in BUILTIN_CAPTIONS:
        known = ", ".join(BUILTIN_CAPTIONS)
        raise InvalidInput(f"no {source.captions}; there are {known}", field=f"data.{label}.captions")
    made = Made("", source)
    identity: dict[str, Any] = {"images": source.images}
    if source.captions:
        identity = {"recipe": made.recipe.digest, "seed": source.seed, "limit": source.limit}
        identity |= {"captions": _identity_of(made.captions), "shard": source.captions_per_shard}
    return Made(f"{label}-{_digest(identity)}", source)


def _identity_of(captions: str) -> str:
    path = Path(captions)
    if not path.is_file():
        return captions
    size = path.stat().st_size
    return hashlib.sha256(path.read_bytes()).hexdigest() if size <= _LIST_BYTES else f"{captions} {size}"


def _training(
    settings: Mapping[str, Any], datasets: list[str], weights: tuple[float, ...], store: str
) -> Training:
    given = {key: value for key, value in settings.items() if key != "preset"}
    preset = str(settings.get("preset", "demo"))
    urls = [dataset_url(store, name) for name in datasets]
    where = {"datasets": urls, "dataset_weights": list(weights)}
    config = load_train_config(preset, {**given, **where, "run": f"{store}/runs/unnamed"})
    # Without defaults: a later version's new settings leave the names of runs that do not use them.
    identity = config.model_dump(mode="json", exclude=_NOT_IN_A_NAME, exclude_defaults=True)
    name = f"{config.method.name.replace('_', '-')}-{_digest([identity, datasets])}"
    named = config.model_copy(update={"run": f"{store}/runs/{name}"})
    return Training(name, tuple(datasets), weights, preset, given, named)


def _texts(recipe: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(value) for key, value in recipe.items()}


def _digest(identity: Any) -> str:
    return hashlib.sha256(json.dumps(identity, sort_keys=True).encode()).hexdigest()[:10]
