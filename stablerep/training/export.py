"""The end of a run: its encoder as a plain timm checkpoint under export/."""

from pathlib import Path
from tempfile import TemporaryDirectory

from torch import nn

from stablerep.models.export import export_encoder
from stablerep.runs.config import TrainConfig
from stablerep.shards.layout import run_key
from stablerep.training.run import Run


def export_run(run: Run, encoder: nn.Module, config: TrainConfig) -> None:
    """Puts config.json and model.safetensors into the run's export/."""
    with TemporaryDirectory(prefix="stablerep-export-") as folder:
        augment = config.augment
        export_encoder(encoder, config.encoder, Path(folder), mean=augment.mean, std=augment.std)
        for file in sorted(Path(folder).iterdir()):
            run.store.put(run_key(run.name, f"export/{file.name}"), file)
