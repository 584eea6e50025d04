"""Stage 3 of the demo: probes of every row on real photographs, two processes side by side."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from stablerep.demo.settings import DemoSettings
from stablerep.demo.train import demo_runs
from stablerep.local.tasks import Task, Whole, run_tasks

_PROCESSES = 2
_PHOTOGRAPHS = "fashion"


@dataclass(frozen=True)
class ProbeTask:
    """One row and seed: what to probe and where the result goes."""

    row: str
    seed: int
    model: str
    settings: DemoSettings
    result: Path


def probe_all(out: Path, settings: DemoSettings, whole: Whole = None) -> None:
    """Probes what has no result yet; the rows are dealt to two processes, which load torch once each."""
    missing = [task for task in probe_tasks(out, settings) if not task.result.exists()]
    (out / "probe").mkdir(exist_ok=True)
    processes = []
    for number in range(_PROCESSES):
        share = missing[number::_PROCESSES]
        if share:
            names = [f"{task.row}:{task.seed}" for task in share]
            processes.append(
                Task(
                    name=f"probe-{number}",
                    title=f"probe {number}",
                    arguments=["-m", "stablerep.demo.probe", str(out), *names],
                    total=len(share),
                    progress=partial(_progress, share),
                )
            )
    run_tasks(processes, out / "logs", whole=whole)


def _progress(tasks: list[ProbeTask]) -> tuple[int, str]:
    done = [task for task in tasks if task.result.exists()]
    if not done:
        return 0, ""
    linear = json.loads(done[-1].result.read_text(encoding="utf-8"))["linear"]
    return len(done), f"{done[-1].row} {linear * 100:.1f} %"


def probe_tasks(out: Path, settings: DemoSettings) -> list[ProbeTask]:
    """Every row and seed: trained encoders, random weights, raw pixels (once: nothing in them is drawn)."""
    rows = [(run.method.name, run.seed, str(run.folder)) for run in demo_runs(out, settings)]
    rows += [("random", seed, "random") for seed in range(settings.seeds)]
    rows.append(("pixels", 0, "pixels"))
    return [
        ProbeTask(row, seed, model, settings, out / "probe" / f"{row}-{seed}.json")
        for row, seed, model in rows
    ]


def probe_results(out: Path, settings: DemoSettings) -> dict[str, list[dict[str, Any]]]:
    """The results by row, in the order of seeds."""
    results: dict[str, list[dict[str, Any]]] = {}
    for task in probe_tasks(out, settings):
        results.setdefault(task.row, []).append(json.loads(task.result.read_text(encoding="utf-8")))
    return results


def _probe(task: ProbeTask) -> None:
    import torch

    from stablerep.evaluation import probe_model
    from stablerep.evaluation.datasets.photographs import load_photographs
    from stablerep.models.load import load_encoder, random_encoder
    from stablerep.runs.config import load_train_config

    torch.set_num_threads(1)
    data = load_photographs(_PHOTOGRAPHS).subset(task.settings.probe_train, task.settings.probe_test)
    encoder: Any = "pixels"
    if task.model == "random":
        config = load_train_config("demo", {"run": "file:///x/runs/x", "datasets": ["file:///x/datasets/x"]})
        encoder = random_encoder(config.encoder, seed=task.seed)
    elif task.model != "pixels":
        encoder = load_encoder(task.model)
    # The split and the draws are those of seed 0 for every row: rows differ by their features only.
    result = probe_model(encoder, data, seed=0, draws=task.settings.few_shot_draws)
    scratch = task.result.with_suffix(".tmp")
    scratch.write_text(json.dumps(asdict(result)) + "\n", encoding="utf-8")
    scratch.replace(task.result)


def _main(out: Path, names: list[str]) -> None:
    settings = DemoSettings(**json.loads((out / "demo.json").read_text(encoding="utf-8")))
    for task in probe_tasks(out, settings):
        if f"{task.row}:{task.seed}" in names and not task.result.exists():
            _probe(task)


if __name__ == "__main__":
    _main(Path(sys.argv[1]), sys.argv[2:])
