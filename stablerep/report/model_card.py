"""A model card for an exported encoder, as the Hugging Face hub shows it: recipe, data, probes, use."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from stablerep.config.loading import dotted
from stablerep.runs.config import TrainConfig, what_is_trained
from stablerep.runs.probe_records import ProbeRecord

_LEFT_OUT = ("run", "datasets", "threads", "prefetch", "decoded_bytes", "log_every", "checkpoint_every")


def model_card(
    name: str,
    config: TrainConfig,
    data: Mapping[str, Any],
    result: Mapping[str, Any],
    records: Sequence[ProbeRecord],
    license_name: str = "",
) -> str:
    """The text of README.md beside config.json and model.safetensors.

    `data` and `result` are the run's data.json and result.json. Nothing is said that was not measured.
    """
    header: dict[str, Any] = {
        "library_name": "timm",
        "tags": ["image-feature-extraction", "timm", "stablerep"],
    }
    if license_name:
        header["license"] = license_name
    settings = dotted(config.model_dump(mode="json", exclude=set(_LEFT_OUT)))
    datasets = [str(dataset["name"]) for dataset in data.get("datasets", [])]
    parts = [
        f"---\n{yaml.safe_dump(header, sort_keys=False)}---",
        f"# {name}",
        f"A visual encoder trained on images: {what_is_trained(config)}.",
        "## Use",
        f"```python\nimport timm\nmodel = timm.create_model('hf-hub:USER/{name}', pretrained=True).eval()\n"
        "features = model(images)  # pooled, one row an image\n```",
        "From this folder: `timm.create_model('local-dir:FOLDER', pretrained=True)`.",
        "## Data",
        f"Datasets: {', '.join(datasets) or 'not recorded'}; {result.get('groups', 0):,} groups, "
        f"{result.get('images_distinct') or 0:,} different images seen in {result.get('views', 0):,} views. "
        "Images of a text-to-image model carry its biases, and the terms of its licence.",
        "## Probes",
        _probes(records),
        "## Training",
        "| setting | value |\n|---|---|\n"
        + "\n".join(f"| `{key}` | {_cell(value)} |" for key, value in settings.items()),
    ]
    return "\n\n".join(parts) + "\n"


def _probes(records: Sequence[ProbeRecord]) -> str:
    if not records:
        return "None yet: `stablerep probe RUN`."
    lines = ["| photographs | protocol | score | % | 95 % interval |", "|---|---|---|---|---|"]
    lines += [
        f"| {record.data} | {record.protocol} | {name} | {score.value * 100:.1f} | "
        f"{score.low * 100:.1f} to {score.high * 100:.1f} |"
        for record in records
        for name, score in record.scores.items()
    ]
    return "\n".join(lines)


def _cell(value: Any) -> str:
    text = value if isinstance(value, str) else json.dumps(value)
    return text.replace("|", "\\|") or "(none)"
