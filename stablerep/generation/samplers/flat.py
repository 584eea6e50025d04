"""`builtin:flat`: images of one colour, without a model; a dry run of everything around the model."""

import hashlib
from collections.abc import Sequence

import torch
from torch import Tensor

from stablerep.config.recipe import Recipe
from stablerep.generation.pipeline import LoadedPipeline
from stablerep.generation.samplers.interface import OnStep


class FlatSampler:
    """The caption decides an image's colour, the seed its shade."""

    def __init__(self, loaded: LoadedPipeline, recipe: Recipe) -> None:
        self._device = loaded.device
        self._recipe = recipe

    def embed(self, caption: str) -> Tensor:
        """The caption's colour, [3] in 0.2..0.8."""
        digest = hashlib.sha256(caption.encode("utf-8", "replace")).digest()
        return 0.2 + 0.6 * torch.tensor(list(digest[:3])) / 255

    def tensors(self, embedding: Tensor) -> Sequence[Tensor]:
        return ()  # they are the host's

    def is_truncated(self, caption: str) -> bool:
        return False

    def sample(self, embeddings: Sequence[Tensor], seeds: Sequence[int], on_step: OnStep | None) -> Tensor:
        """One pixel an image, [n 3 1 1]."""
        noise = [torch.rand(1, generator=torch.Generator().manual_seed(seed)) for seed in seeds]
        for _ in range(self._recipe.steps):
            if on_step is not None:
                on_step()
        pixels = torch.stack(list(embeddings)) + 0.4 * torch.stack(noise) - 0.2
        return pixels[:, :, None, None].to(self._device)

    def decode(self, samples: Tensor) -> Tensor:
        size = self._recipe.image_size
        return samples.expand(-1, -1, size, size)
