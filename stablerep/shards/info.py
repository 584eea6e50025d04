"""`dataset.json`: recipe, counts and caption source of a dataset, readable with no service running."""

import json
from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from stablerep.config.names import check_dataset
from stablerep.config.recipe import Recipe
from stablerep.errors import InvalidInput, NotFound, TornObject
from stablerep.shards.layout import dataset_key, planned_key
from stablerep.storage.interface import Store


class DatasetInfo(BaseModel):
    """The description of a dataset. `counts`: shards, captions, groups, images, skipped, as far as known."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    name: str
    recipe: dict[str, Any]
    recipe_digest: str
    job_seed: int
    captions_per_shard: int = Field(gt=0)
    source: dict[str, Any]
    counts: dict[str, int] = Field(default_factory=dict)
    model_card: str | None = None
    create_time: datetime


def write_dataset(store: Store, info: DatasetInfo, *, if_absent: bool = False) -> bool:
    """Writes `dataset.json`; False only when `if_absent` and there is one already. Raises InvalidInput."""
    key = dataset_key(check_dataset(info.name))
    return store.put(key, (info.model_dump_json(indent=2) + "\n").encode(), if_absent=if_absent)


def read_dataset(store: Store, dataset: str) -> DatasetInfo:
    """The description of a dataset. Raises NotFound, and TornObject for one that this version cannot read."""
    key = dataset_key(dataset)
    try:
        data = store.get(key)
    except NotFound as error:
        raise NotFound(f"there is no dataset {dataset} in {store.url}") from error
    try:
        return DatasetInfo.model_validate_json(data)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        raise TornObject(f"{key} in {store.url} cannot be read: {where}: {problem['msg']}") from error


def recipe_of(info: DatasetInfo) -> Recipe:
    """How the dataset's images were made.

    Raises InvalidInput where no job made them, TornObject for a recipe that this version cannot follow, or
    that is another than its digest says.
    """
    if not info.recipe:
        raise InvalidInput(f"{info.name} has no recipe: it was not made by a job", field="dataset")
    try:
        recipe = Recipe.model_validate(info.recipe)
    except ValidationError as error:
        problem = error.errors(include_url=False)[0]
        where = ".".join(str(part) for part in problem["loc"])
        message = f"the recipe of {info.name} cannot be followed: {where}: {problem['msg']}"
        raise TornObject(message) from error
    if recipe.digest != info.recipe_digest:
        raise TornObject(f"the recipe in {info.name}'s dataset.json is not the one its digest names")
    return recipe


def planned_shards(store: Store, dataset: str) -> int:
    """How many shards the dataset's job will make. Raises NotFound while that is not known."""
    key = planned_key(dataset)
    try:
        return int(json.loads(store.get(key))["shards"])
    except NotFound:
        raise NotFound(f"{key} is not in {store.url}: the job's captions are not all planned") from None
    except (ValueError, KeyError, TypeError) as error:
        raise TornObject(f"{key} in {store.url} cannot be read: {error}") from error
