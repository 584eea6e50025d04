"""Objects that hold JSON, checked to be what they are read as."""

import json
from typing import Any

from stablerep.errors import TornObject
from stablerep.storage.interface import Store


def read_json(store: Store, key: str) -> dict[str, Any]:
    """The JSON object under this key. Raises NotFound, and TornObject for what is none."""
    try:
        found = json.loads(store.get(key))
    except (ValueError, RecursionError) as error:
        raise TornObject(f"{key} in {store.url} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise TornObject(f"{key} in {store.url} cannot be read: it is no object")
    return found
