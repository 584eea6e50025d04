"""Training an encoder: configuration, loop, optimiser, checkpoints, distributed set-up, logs."""

from stablerep.runs.config import TrainConfig, load_train_config

__all__ = ["TrainConfig", "load_train_config"]
