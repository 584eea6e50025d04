"""Stage 2 of the demo: one trainer process a learner and seed, two side by side, one thread each."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from rich.progress import TaskID

from stablerep.demo.generate import dataset_url
from stablerep.demo.settings import DemoSettings, Learner
from stablerep.processes import Child, ChildDied, Processes
from stablerep.progress import Bars

_AT_ONCE = 2
_POLL_SECONDS = 0.5


@dataclass(frozen=True)
class DemoRun:
    """One training run of the demo."""

    learner: Learner
    seed: int
    folder: Path

    @property
    def name(self) -> str:
        return self.folder.name

    @property
    def finished(self) -> bool:
        return (self.folder / "result.json").exists()

    def metrics(self) -> list[dict[str, Any]]:
        """What the run has logged so far, a mapping a line."""
        file = self.folder / "metrics.jsonl"
        return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def demo_runs(out: Path, settings: DemoSettings) -> list[DemoRun]:
    """All runs of a demo, seed by seed."""
    return [
        DemoRun(learner, seed, out / "store" / "runs" / f"{learner.name}-{seed}")
        for seed in range(settings.seeds)
        for learner in settings.learners
    ]


def train_all(out: Path, settings: DemoSettings) -> None:
    """Trains what is not trained yet; a trainer that dies is started again and goes on from its checkpoint.

    Raises ChildDied when one keeps dying.
    """
    waiting = [run for run in demo_runs(out, settings) if not run.finished]
    if not waiting:
        return
    going: dict[str, tuple[DemoRun, Child, TaskID]] = {}
    with Bars() as bars, Processes(out / "logs") as processes:
        while waiting or going:
            while waiting and len(going) < _AT_ONCE:
                run = waiting.pop(0)
                child = processes.start(f"trainer-{run.name}", _arguments(out, settings, run), {})
                bar = bars.add(f"train {run.name}", settings.training_steps, _step(run))
                going[run.name] = (run, child, bar)
            time.sleep(_POLL_SECONDS)
            for name, (run, child, bar) in list(going.items()):
                _show(run, settings, bars, bar)
                if child.process.poll() == 0:
                    processes.stop(child.name)
                    del going[name]
                elif child.process.poll() == 1:
                    # Status 1 is an error the trainer knows: starting it again would meet it again.
                    raise ChildDied(f"{child.name} failed:\n{child.log_tail()}")
            processes.revive()


def _show(run: DemoRun, settings: DemoSettings, bars: Bars, bar: TaskID) -> None:
    metrics = run.metrics()
    if run.finished:
        bars.update(bar, settings.training_steps, f"loss {metrics[-1]['loss']:.3f}")
    elif metrics:
        bars.update(bar, metrics[-1]["step"], f"loss {metrics[-1]['loss']:.3f}")


def _step(run: DemoRun) -> int:
    metrics = run.metrics()
    return int(metrics[-1]["step"]) if metrics else 0


def _arguments(out: Path, settings: DemoSettings, run: DemoRun) -> list[str]:
    configuration: dict[str, Any] = {
        "run": run.folder.resolve().as_uri(),
        "datasets": [dataset_url(out, run.learner.images)],
        "objective": run.learner.objective,
        "images_per_caption": settings.images_per_caption,
        "views_per_batch": settings.views_per_step,
        "steps": settings.training_steps,
        "seed": run.seed,
        "log_every": max(1, settings.training_steps // 60),
        "checkpoint_every": max(5, settings.training_steps // 6),
    }
    if run.learner.drop_nouns:
        configuration["drop_words"] = json.loads(
            (files("stablerep") / "assets/fashion_nouns.json").read_text()
        )
    pairs = [f"{key}={json.dumps(value)}" for key, value in configuration.items() if key != "run"]
    pairs.append(f"run={configuration['run']}")
    return ["-m", "services.trainer", "--config", "demo", *(a for p in pairs for a in ("--set", p))]


def training_facts(settings: DemoSettings) -> dict[str, Any]:
    """What the report says of training."""
    from stablerep.training.config import load_train_config

    config = load_train_config("demo", {"run": "file:///x/runs/x", "datasets": ["file:///x/datasets/x"]})
    return {
        "steps": settings.training_steps,
        "views_per_step": settings.views_per_step,
        "views": settings.training_steps * settings.views_per_step,
        "encoder": f"{config.encoder.name} {config.encoder.kwargs} at {config.encoder.image_size} px",
        "temperature": config.temperature,
        "python": sys.version.split()[0],
    }
