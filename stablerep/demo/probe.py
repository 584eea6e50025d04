"""Stage 3 of the demo: probes of every row on real photographs, two processes side by side."""

from __future__ import annotations

import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from stablerep.demo.settings import DemoSettings
from stablerep.demo.train import demo_runs
from stablerep.progress import Bars

_PROCESSES = 2
_PHOTOGRAPHS = "fashion"


@dataclass(frozen=True)
class ProbeTask:
    """One number of seeds' worth of one row: what to probe and where the result goes."""

    row: str
    seed: int
    model: str
    settings: DemoSettings
    result: Path


def probe_all(out: Path, settings: DemoSettings) -> None:
    """Probes what has no result yet."""
    tasks = [task for task in probe_tasks(out, settings) if not task.result.exists()]
    if not tasks:
        return
    (out / "probe").mkdir(exist_ok=True)
    # Fresh interpreters: torch's thread settings and locks do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with Bars() as bars, ProcessPoolExecutor(_PROCESSES, mp_context=context) as pool:
        bar = bars.add("probe", len(tasks))
        try:
            for done, finished in enumerate(as_completed([pool.submit(_probe, t) for t in tasks]), 1):
                row, linear = finished.result()
                bars.update(bar, done, f"{row} {linear * 100:.1f} %")
        except KeyboardInterrupt:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def probe_tasks(out: Path, settings: DemoSettings) -> list[ProbeTask]:
    """Every row and seed: trained encoders, random weights, raw pixels (once: nothing in them is drawn)."""
    rows = [(run.learner.name, run.seed, str(run.folder)) for run in demo_runs(out, settings)]
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
        results.setdefault(task.row, []).append(json.loads(task.result.read_text()))
    return results


def _probe(task: ProbeTask) -> tuple[str, float]:
    import torch

    from stablerep.data.photographs import load_photographs
    from stablerep.evaluation import load_encoder, probe_model, random_encoder
    from stablerep.training.config import load_train_config

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
    scratch.write_text(json.dumps(asdict(result)) + "\n")
    scratch.replace(task.result)
    return task.row, result.linear
