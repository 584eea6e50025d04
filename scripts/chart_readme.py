"""Renews the chart's README.md from README.md.gotmpl and values.yaml: `python scripts/chart_readme.py`.

The template keeps to what helm-docs knows, so that `helm-docs` makes the same table: a comment that begins
with `# --` describes the value below it. A test fails while README.md is not up to date.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parents[1] / "deploy/helm/stablerep"
TABLE = '{{ template "chart.valuesTable" . }}'
_KEY = re.compile(r"^(\s*)([A-Za-z]\w*):(.*)$")


def descriptions(text: str) -> dict[str, str]:
    """Dotted key -> what the comment above it says."""
    found: dict[str, str] = {}
    path: list[tuple[int, str]] = []
    comment: list[str] = []
    for line in text.splitlines():
        stripped = line.strip()
        if stripped.startswith("# -- "):
            comment = [stripped.removeprefix("# -- ")]
        elif stripped.startswith("# ") and comment:
            comment.append(stripped.removeprefix("# "))
        elif match := _KEY.match(line):
            indent = len(match[1])
            path = [part for part in path if part[0] < indent] + [(indent, match[2])]
            if comment:
                found[".".join(name for _, name in path)] = " ".join(comment)
            comment = []
        else:
            comment = []
    return found


def leaves(values: dict[str, Any], described: dict[str, str], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every value that is no mapping of others, or that is described as a whole."""
    for key, value in values.items():
        name = f"{prefix}{key}"
        if isinstance(value, dict) and value and name not in described:
            yield from leaves(value, described, f"{name}.")
        else:
            yield name, value


def table(text: str) -> str:
    """The values as a table in Markdown, as helm-docs writes it."""
    described = descriptions(text)
    rows = ["| Key | Type | Default | Description |", "|-----|------|---------|-------------|"]
    for key, value in leaves(yaml.safe_load(text), described):
        default = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        about = described.get(key, "").replace("|", "\\|")
        rows.append(f"| {key} | {_type(value)} | `{default}` | {about} |")
    return "\n".join(rows)


def renewed() -> str:
    """The README's text of today."""
    template = (CHART / "README.md.gotmpl").read_text(encoding="utf-8")
    return template.replace(TABLE, table((CHART / "values.yaml").read_text(encoding="utf-8")))


def _type(value: Any) -> str:
    kinds: tuple[tuple[type, str], ...] = (
        (bool, "bool"),
        (int, "int"),
        (str, "string"),
        (list, "list"),
        (dict, "object"),
    )
    return next((word for kind, word in kinds if isinstance(value, kind)), "string")


if __name__ == "__main__":
    (CHART / "README.md").write_text(renewed(), encoding="utf-8")
