"""YAML mappings and dotted overrides: how settings, recipes and runs are read, each from one or the other."""

from collections.abc import Mapping
from importlib import resources
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

import yaml

from stablerep.errors import InvalidInput


def preset_names(kind: str) -> list[str]:
    """Names of the presets of one kind, `generation` or `training`, that the package ships."""
    return sorted(entry.name.removesuffix(".yaml") for entry in _presets(kind).iterdir())


def read_preset(kind: str, name: str) -> dict[str, Any]:
    """A preset's mapping; never a file outside the package. Raises InvalidInput for an unknown name."""
    if name not in preset_names(kind):
        message = f"no preset {name!r}; there are {', '.join(preset_names(kind))}"
        raise InvalidInput(message, field="preset")
    return parse_mapping((_presets(kind) / f"{name}.yaml").read_text(encoding="utf-8"), name, "preset")


def read_mapping(path: Path, field: str) -> dict[str, Any]:
    """The mapping in a YAML file. Raises InvalidInput for `field`, naming the file and the cause."""
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InvalidInput(f"cannot read {path}: {error.strerror}", field=field) from None
    except UnicodeDecodeError as error:
        raise InvalidInput(f"{path} is not UTF-8: {error}", field=field) from None
    return parse_mapping(text, str(path), field)


def parse_mapping(text: str, name: str, field: str) -> dict[str, Any]:
    """The mapping that a YAML text holds; empty for an empty text. Raises InvalidInput."""
    content = parse_value(text, name, field)
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(key, str) for key in content):
        raise InvalidInput(f"{name} does not hold `key: value` lines", field=field)
    return content


def parse_value(text: str, name: str, field: str) -> Any:
    """The value that a YAML text holds. Raises InvalidInput."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise InvalidInput(f"{name} is not YAML: {' '.join(str(error).split())}", field=field) from None


def put(tree: dict[str, Any], key: str, value: Any) -> None:
    """Sets `a.b` in nested mappings. Raises InvalidInput where `a` is a plain value."""
    *parents, last = key.split(".")
    for parent in parents:
        tree = tree.setdefault(parent, {})
        if not isinstance(tree, dict):
            raise InvalidInput(f"{parent} has no settings below it", field=key)
    tree[last] = value


def dotted(tree: Mapping[str, Any], within: str = "") -> dict[str, Any]:
    """The plain values of nested mappings by dotted key, as `put` takes them."""
    values: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, Mapping) and value:
            values |= dotted(value, f"{within}{key}.")
        else:
            values[f"{within}{key}"] = value
    return values


def _presets(kind: str) -> Traversable:
    return resources.files(__package__) / "presets" / kind
