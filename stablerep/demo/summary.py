"""Stage 4 of the demo: `report.json`, the exported encoder and the HTML report."""

from __future__ import annotations

import io
import json
import math
import os
import platform
import shutil
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from stablerep.demo.generate import dataset_url
from stablerep.demo.probe import probe_results
from stablerep.demo.settings import DemoSettings
from stablerep.demo.train import demo_runs, training_facts
from stablerep.progress import step
from stablerep.report.page import render_report

_GROUPS_SHOWN = 30
_MAP_PHOTOGRAPHS = 1000
_PACKAGES = ("torch", "diffusers", "timm", "scikit-learn", "stablerep")


def write_report(out: Path, settings: DemoSettings, command: str, seconds: Mapping[str, float]) -> None:
    """Writes `report.json`, `report.html` and `export/` (the first seed's StableRep encoder).

    `seconds` are those of the stages before; its own are added up to the writing of the page.
    """
    began = time.monotonic()
    with step("report"):
        export = out / "export"
        shutil.copytree(demo_runs(out, settings)[0].folder / "export", export, dirs_exist_ok=True)
        pictures = _pictures(out, settings)
        spent = {stage: value for stage, value in seconds.items() if stage != "total"}
        spent["report"] = time.monotonic() - began
        report = collect(out, settings, command, {**spent, "total": sum(spent.values())})
        page = render_report(report, *pictures)
    (out / "report.html").write_text(page, encoding="utf-8")
    (out / "report.json").write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def collect(out: Path, settings: DemoSettings, command: str, seconds: Mapping[str, float]) -> dict[str, Any]:
    """All numbers of a demo, from the files that its stages left."""
    from stablerep.data import GroupDataset

    results = probe_results(out, settings)
    probe = {
        row: {column: [r[column] for r in found] for column in ("linear", "few", "knn")}
        for row, found in results.items()
    }
    titles = {method.name: method.title for method in settings.methods}
    titles |= {"random": "random initialisation", "pixels": "raw pixels"}
    groups = GroupDataset(dataset_url(out, "noun"))
    dataset = json.loads((out / "store" / "datasets" / "demo" / "dataset.json").read_text(encoding="utf-8"))
    return {
        "schema": 1,
        "command": command,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "settings": json.loads((out / "demo.json").read_text(encoding="utf-8")),
        "probe": probe,
        "titles": titles,
        "probe_details": results,
        "probe_data": {"train": settings.probe_train, "test": settings.probe_test},
        "images": {
            "captions": len(groups),
            "per_caption": settings.images_per_caption,
            "distinct": len(groups) * settings.images_per_caption,
        },
        "training": training_facts(settings),
        "loss": _losses(out, settings),
        "recipe": {**dataset["recipe"], "digest": dataset["recipe_digest"]},
        "seconds": dict(seconds),
        "machine": {"cores": os.cpu_count(), "processor": _processor(), "accelerator": _accelerator()},
        "versions": {name: version(name) for name in _PACKAGES},
    }


def _losses(out: Path, settings: DemoSettings) -> dict[str, Any]:
    losses = {}
    for run in demo_runs(out, settings):
        if run.seed == 0:
            positives = settings.images_per_caption - 1 if run.method.method == "stablerep" else 1
            points = [(line["step"], line["loss"]) for line in run.metrics()]
            losses[run.method.name] = {"points": points, "floor": math.log(positives)}
    return losses


def _accelerator() -> str:
    import torch

    return torch.cuda.get_device_name() if torch.cuda.is_available() else "no GPU"


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()


def _pictures(out: Path, settings: DemoSettings) -> tuple[list[Any], dict[str, Any], tuple[str, ...]]:
    """Groups with photographs beside them, maps by title, names of the classes: see `render_report`."""
    import torch

    from stablerep.data import GroupDataset
    from stablerep.evaluation import extract_features
    from stablerep.evaluation.datasets.photographs import load_photographs
    from stablerep.evaluation.embedding_map import embedding_map
    from stablerep.models.load import load_encoder

    torch.set_num_threads(1)
    photographs = load_photographs("fashion").subset(settings.probe_train, settings.probe_test)
    labels = torch.from_numpy(photographs.test_labels)
    encoder_features = extract_features(load_encoder(str(out / "export")), photographs.framed().test_images)
    pixel_features = extract_features("pixels", photographs.test_images)
    limit = min(_MAP_PHOTOGRAPHS, len(labels))
    sets = {"StableRep features": encoder_features, "raw pixels": pixel_features}
    with ThreadPoolExecutor(len(sets)) as threads:
        found = threads.map(lambda features: embedding_map(features, labels, limit=limit), sets.values())
        maps = {title: (drawn.coordinates, drawn.labels) for title, drawn in zip(sets, found, strict=True)}
    groups = GroupDataset(dataset_url(out, "noun"))
    shown = [groups[i] for i in range(0, len(groups), max(1, len(groups) // _GROUPS_SHOWN))][:_GROUPS_SHOWN]
    beside = [_photographs_of(group.caption, photographs, i) for i, group in enumerate(shown)]
    return list(zip(shown, beside, strict=True)), maps, photographs.class_names


def _photographs_of(caption: str, photographs: Any, turn: int, count: int = 3) -> list[bytes]:
    """Photographs (PNG) of the class that a caption names, other ones each turn; none if it names none."""
    from PIL import Image

    words = f" {caption} "
    named = [i for i, name in enumerate(photographs.class_names) if f" {name.lower()} " in words]
    if not named:
        return []
    images = photographs.framed().test_images[photographs.test_labels == named[0]]
    encoded = []
    for index in range(turn * count, turn * count + count):
        buffer = io.BytesIO()
        Image.fromarray(images[index % len(images)]).save(buffer, "png")
        encoded.append(buffer.getvalue())
    return encoded
