"""Encoders of runs that are not finished: from one of their checkpoints."""

from stablerep.errors import InvalidInput, NotFound
from stablerep.models import build_encoder
from stablerep.models.frozen import FrozenEncoder
from stablerep.runs.config import TrainConfig, parse_train_config
from stablerep.shards.layout import run_key
from stablerep.storage import open_store
from stablerep.training.checkpoint import Checkpoint, checkpoint_steps, read_checkpoint

_PART = "model.encoder."
_AVERAGE = "model.average.encoder."


def load_checkpoint_encoder(run: str, step: int | None = None) -> tuple[FrozenEncoder, int]:
    """The encoder of the run at STORE/runs/NAME at a checkpoint (None: the last), and the checkpoint's step.

    Raises what `open_checkpoint` raises.
    """
    config, checkpoint = open_checkpoint(run, step)
    encoder = build_encoder(config.encoder)
    tensors, part = checkpoint.tensors.items(), _AVERAGE if config.average else _PART
    encoder.load_state_dict({key.removeprefix(part): t for key, t in tensors if key.startswith(part)})
    frozen = FrozenEncoder(encoder.eval(), config.encoder.image_size, config.augment.mean, config.augment.std)
    return frozen, checkpoint.info.step


def open_checkpoint(run: str, step: int | None = None) -> tuple[TrainConfig, Checkpoint]:
    """The configuration of the run at STORE/runs/NAME, and its checkpoint of `step` (None: the last).

    Raises NotFound if there is no such checkpoint, TornObject if it is damaged, InvalidInput for no run.
    """
    root, separator, name = run.rstrip("/").rpartition("/runs/")
    if not separator:
        raise InvalidInput(f"{run!r} is no run: want STORE/runs/NAME", field="model")
    store = open_store(root)
    steps = checkpoint_steps(store, name)
    if not steps or (step is not None and step not in steps):
        there = ", ".join(f"{one:,}" for one in steps) or "none"
        raise NotFound(f"run {run} has no checkpoint of that step; there is {there}")
    config = parse_train_config(store.get(run_key(name, "config.json")).decode())
    return config, read_checkpoint(store, name, steps[-1] if step is None else step)
