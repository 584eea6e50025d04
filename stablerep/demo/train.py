"""Stage 2 of the demo: one trainer process a learner and seed, two side by side."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from stablerep.demo.generate import dataset_url
from stablerep.demo.settings import DemoSettings, Method
from stablerep.local.tasks import Task, Whole, run_tasks


@dataclass(frozen=True)
class DemoRun:
    """One training run of the demo."""

    method: Method
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        return (self.folder / "result.json").exists()

    def progress(self) -> tuple[int, str]:
        """Steps logged, and the loss after them."""
        metrics = self.metrics()
        return (int(metrics[-1]["step"]), f"loss {metrics[-1]['loss']:.3f}") if metrics else (0, "")

    def metrics(self) -> list[dict[str, Any]]:
        """What the run has logged so far, a mapping a line."""
        file = self.folder / "metrics.jsonl"
        return (
            [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]
            if file.exists()
            else []
        )


def demo_runs(out: Path, settings: DemoSettings) -> list[DemoRun]:
    """All runs of a demo, seed by seed."""
    return [
        DemoRun(method, seed, out / "store" / "runs" / f"{method.name}-{seed}")
        for seed in range(settings.seeds)
        for method in settings.methods
    ]


def train_all(out: Path, settings: DemoSettings, whole: Whole = None) -> None:
    """Trains what is not trained yet; a trainer that is killed resumes from its checkpoint."""
    tasks = [
        Task(
            name=f"trainer-{run.name}",
            title=f"train {run.name}",
            arguments=_arguments(out, settings, run),
            total=settings.training_steps,
            progress=run.progress,
        )
        for run in demo_runs(out, settings)
        if not run.finished
    ]
    run_tasks(tasks, out / "logs", whole=whole)


def _arguments(out: Path, settings: DemoSettings, run: DemoRun) -> list[str]:
    configuration: dict[str, Any] = {
        "run": run.folder.resolve().as_uri(),
        "datasets": [dataset_url(out, run.method.images)],
        "method": _method(settings, run),
        "views_per_batch": settings.views_per_step,
        "steps": settings.training_steps,
        "seed": run.seed,
        "log_every": max(1, settings.training_steps // 60),
        "checkpoint_every": max(5, settings.training_steps // 6),
    }
    if run.method.drop_nouns:
        configuration["drop_words"] = json.loads(
            (files("stablerep") / "assets/fashion_nouns.json").read_text(encoding="utf-8")
        )
    pairs = [f"{key}={json.dumps(value)}" for key, value in configuration.items() if key != "run"]
    pairs.append(f"run={configuration['run']}")
    return ["-m", "services.trainer", "--config", "demo", *(a for p in pairs for a in ("--set", p))]


def _method(settings: DemoSettings, run: DemoRun) -> dict[str, Any]:
    if run.method.method == "simclr":
        return {"name": "simclr"}
    return {"name": "stablerep", "images_per_caption": settings.images_per_caption}


def training_facts(settings: DemoSettings) -> dict[str, Any]:
    """What the report says of training."""
    from stablerep.runs.config import load_train_config

    config = load_train_config("demo", {"run": "file:///x/runs/x", "datasets": ["file:///x/datasets/x"]})
    return {
        "steps": settings.training_steps,
        "views_per_step": settings.views_per_step,
        "views": settings.training_steps * settings.views_per_step,
        "encoder": f"{config.encoder.name} {config.encoder.kwargs} at {config.encoder.image_size} px",
        "temperature": config.method.model_dump()["temperature"],
        "python": sys.version.split()[0],
    }
