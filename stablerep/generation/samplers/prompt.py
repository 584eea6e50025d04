"""Any other diffusers text-to-image pipeline: prompt texts and one CPU generator an image.

Tested on LatentConsistencyModelPipeline.
"""

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from stablerep.config.recipe import Recipe
from stablerep.errors import InvalidInput
from stablerep.generation.noise import make_generator
from stablerep.generation.pipeline import LoadedPipeline, make_scheduler
from stablerep.generation.samplers.interface import OnStep, as_callback


class PromptSampler:
    """Any other text-to-image pipeline: prompts in, pixels out; noise comes from the images' generators."""

    def __init__(self, loaded: LoadedPipeline, recipe: Recipe) -> None:
        self._pipe = loaded.pipe
        self._scheduler = make_scheduler(loaded, recipe.sampler)
        self._settings: dict[str, Any] = {
            "num_inference_steps": recipe.steps,
            "guidance_scale": recipe.guidance_scale,
            "height": recipe.image_size,
            "width": recipe.image_size,
        }
        known = inspect.signature(type(loaded.pipe).__call__).parameters
        missing = {*self._settings, "generator", "output_type"} - known.keys()
        if missing:
            raise InvalidInput(
                f"{type(loaded.pipe).__name__} has no setting {', '.join(sorted(missing))}",
                field="model",
            )
        self._reports_steps = "callback_on_step_end" in known

    def embed(self, caption: str) -> str:
        return caption

    def tensors(self, embedding: str) -> Sequence[Tensor]:
        return ()

    def is_truncated(self, caption: str) -> bool:
        return False  # how much such a pipeline reads is its own affair

    @torch.inference_mode()
    def sample(self, embeddings: Sequence[str], seeds: Sequence[int], on_step: OnStep | None) -> Tensor:
        self._pipe.scheduler = self._scheduler
        report = {"callback_on_step_end": as_callback(on_step)} if self._reports_steps else {}
        generators = [make_generator(seed) for seed in seeds]
        return self._pipe(
            prompt=list(embeddings), generator=generators, output_type="pt", **self._settings, **report
        ).images

    def decode(self, samples: Tensor) -> Tensor:
        return samples.float().clamp(0, 1)
