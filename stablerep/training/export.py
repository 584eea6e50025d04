"""A run's encoder as a plain timm checkpoint: under export/ at its end, under best/ as a probe says."""

import json
from collections.abc import Mapping
from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from stablerep.errors import NotFound
from stablerep.models.export import export_encoder
from stablerep.runs.config import TrainConfig
from stablerep.shards.layout import run_key
from stablerep.training.run import Run

_BEST = "best/best.json"
_JUDGED_BY = "probe_linear"


def export_run(run: Run, encoder: nn.Module, config: TrainConfig, folder: str = "export") -> None:
    """Puts config.json and model.safetensors into a folder of the run."""
    with TemporaryDirectory(prefix="stablerep-export-") as written:
        augment = config.augment
        export_encoder(encoder, config.encoder, Path(written), mean=augment.mean, std=augment.std)
        for file in sorted(Path(written).iterdir()):
            run.store.put(run_key(run.name, f"{folder}/{file.name}"), file)


def keep_if_best(
    run: Run, encoder: nn.Module, config: TrainConfig, step: int, accuracies: Mapping[str, float]
) -> bool:
    """Exports the encoder to best/ if no earlier one of the run had a better linear accuracy; whether so."""
    key = run_key(run.name, _BEST)
    try:
        before = json.loads(run.store.get(key))
    except NotFound:
        before = {"step": -1, _JUDGED_BY: -1.0}
    # A run that goes on from an earlier step meets its own later ones again.
    if before["step"] != step and before[_JUDGED_BY] >= accuracies[_JUDGED_BY]:
        return False
    export_run(run, encoder, config, "best")
    run.store.put(key, (json.dumps({"step": step, **accuracies}, indent=1) + "\n").encode())
    return True
