"""The recipe that a request asks for, checked as both servers do it: sizes, ranges, the allowed models."""

from collections.abc import Mapping, Sequence

from stablerep.config.recipe import Preset, Recipe, load_preset
from stablerep.errors import InvalidInput
from stablerep.jobs.job import DEFAULT_PRESET

MAX_RECIPE_FIELDS = 64
MAX_TEXT = 1000


def named_preset(name: str) -> Preset:
    """The preset that a request names; an empty name is the default one. Raises InvalidInput."""
    if len(name) > MAX_TEXT:
        raise InvalidInput("is too long", field="preset")
    return load_preset(name or DEFAULT_PRESET)


def requested_recipe(preset: str, overrides: Mapping[str, str], models: Sequence[str]) -> Recipe:
    """The recipe of a preset with the overrides of a request.

    Args:
        models: the setting `gateway.models`.

    Raises:
        InvalidInput: with the field `preset`, `recipe` or that of the recipe which is wrong.
    """
    named_preset(preset)
    if len(overrides) > MAX_RECIPE_FIELDS:
        raise InvalidInput(f"has more than {MAX_RECIPE_FIELDS} fields", field="recipe")
    if any(len(key) + len(value) > MAX_TEXT for key, value in overrides.items()):
        raise InvalidInput(f"has a field of more than {MAX_TEXT} characters", field="recipe")
    recipe = load_preset(preset or DEFAULT_PRESET, overrides).recipe
    check_model(recipe.model, models)
    return recipe


def check_model(model: str, models: Sequence[str]) -> None:
    """Raises InvalidInput unless one of `models` is the model, or with a `*` at its end begins it."""
    if not any(_allows(pattern, model) for pattern in models):
        raise InvalidInput(
            f"{model[:200]!r} is not one of the models that this service may load: "
            f"{', '.join(models) or 'none'}; whoever runs it can add it to the setting gateway.models",
            field="model",
        )


def _allows(pattern: str, model: str) -> bool:
    """Whether a pattern lets a model in; `*` alone stands for models of the hub, not for folders."""
    if not pattern.endswith("*"):
        return pattern == model
    begins = model.startswith(pattern[:-1]) and ".." not in model.replace("\\", "/").split("/")
    return begins and _is_folder(model) == _is_folder(pattern)


def _is_folder(model: str) -> bool:
    """Whether a model is given as a path. A hub id, `owner/name`, begins with a letter or digit."""
    begins_as_id = model[0].isalnum() or model[0] == "*"
    return not begins_as_id or "\\" in model or model.count("/") > 1
