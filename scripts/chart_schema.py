"""Renews the settings in the Helm chart's values.schema.json: `python scripts/chart_schema.py`.

So a misspelt setting is refused by `helm install`, not by a pod that does not start. What the chart sets
itself is left out, and thus refused too. A test fails while the file is not up to date.
"""

import json
from pathlib import Path
from typing import Any

from stablerep.config.settings import Settings

SCHEMA = Path(__file__).parents[1] / "deploy/helm/stablerep/values.schema.json"
OF_THE_CHART = {
    "store_url", "redis_url", "s3", "tls", "auth", "trainer", "kubernetes", "log_format",
    "gateway.address", "gateway.announce", "gateway.metrics_address", "gateway.launcher",
    "generator.address", "generator.announce", "generator.metrics_address",
    "console.address", "console.announce", "console.gateway", "console.worker", "console.prefix",
    "console.key_file", "console.anonymous",
}  # fmt: skip
"""Set from other values, or of no use in a pod."""
_WORDS = ("default", "description", "title")


def settings_schema() -> dict[str, Any]:
    """The JSON schema of the value `settings`."""
    whole = Settings.model_json_schema()
    return _object(whole, whole["$defs"], "")


def _object(schema: dict[str, Any], definitions: dict[str, Any], prefix: str) -> dict[str, Any]:
    properties = {}
    for name, field in schema["properties"].items():
        if prefix + name in OF_THE_CHART:
            continue
        if "$ref" in field:
            part = definitions[field["$ref"].rpartition("/")[2]]
            properties[name] = _object(part, definitions, f"{prefix}{name}.")
        else:
            properties[name] = {key: value for key, value in field.items() if key not in _WORDS}
    return {"type": "object", "additionalProperties": False, "properties": properties}


def renewed(text: str) -> str:
    """The schema file's text with today's settings."""
    schema = json.loads(text)
    schema["properties"]["settings"] = settings_schema()
    return json.dumps(schema, indent=2) + "\n"


if __name__ == "__main__":
    SCHEMA.write_text(renewed(SCHEMA.read_text(encoding="utf-8")), encoding="utf-8")
