"""The two towers of a run that compares images with texts (CLIP, StableRep+), from one of its checkpoints."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from stablerep.errors import InvalidInput
from stablerep.evaluation.features import encode
from stablerep.models.frozen import FrozenEncoder
from stablerep.models.image_text import ImageTextTower
from stablerep.models.released import ENDINGS, load_released_towers
from stablerep.models.tokenizer import Tokenizer, load_tokenizer
from stablerep.training.checkpoint import restore_model
from stablerep.training.encoders import open_checkpoint
from stablerep.training.learner import Learner, build_learner
from stablerep.training.run import with_kept_tokenizer

_BATCH = 256


@dataclass(frozen=True)
class Towers:
    """Images and texts to one space."""

    encoder: FrozenEncoder
    tower: ImageTextTower
    tokenizer: Tokenizer

    def to(self, device: torch.device) -> Self:
        """These towers, moved to a device."""
        self.encoder.model.to(device)
        self.tower.to(device)
        return self

    def images(self, inputs: Tensor) -> Tensor:
        """Embeddings [n d], on the CPU, of prepared images [n 3 size size]."""
        features = encode(self.encoder, inputs)
        with torch.inference_mode():
            return self.tower.images(features.to(self._device)).cpu().clone()

    def texts(self, texts: Sequence[str]) -> Tensor:
        """Embeddings [n d], on the CPU, of texts."""
        tokens, _ = self.tokenizer(texts)
        with torch.inference_mode():
            parts = [self.tower.texts(part.to(self._device)).cpu() for part in tokens.split(_BATCH)]
            return torch.cat(parts).clone()

    @property
    def _device(self) -> torch.device:
        return next(self.tower.parameters()).device


def load_towers(run: str, step: int | None = None) -> tuple[Towers, int]:
    """The towers of STORE/runs/NAME after `step` steps (None: its last checkpoint), and that step.

    Or those in a checkpoint (.pt, .pth) of StableRep's release, of step 0. Raises InvalidInput for what knows
    no texts, and what reading a checkpoint raises.
    """
    if run.endswith(ENDINGS) and Path(run).is_file():
        return Towers(*load_released_towers(Path(run)), load_tokenizer()), 0
    config, checkpoint = open_checkpoint(run, step)
    if not config.method.needs().texts:
        message = (
            f"{run} was trained by {config.method.name}, which knows no texts; clip and stablerep_plus do"
        )
        raise InvalidInput(message, field="model")
    config = with_kept_tokenizer(config, run)
    learner: Learner = build_learner(config.model_copy(update={"init": ""}), torch.device("cpu"), 1)
    restore_model(checkpoint.tensors, learner)
    learner.eval().float()
    encoder = FrozenEncoder(
        learner.encoder, config.encoder.image_size, config.augment.mean, config.augment.std
    )
    tokenizer = load_tokenizer(config.method.needs().tokenizer)
    return Towers(encoder, learner.image_text, tokenizer), checkpoint.info.step
