"""From embedded captions to images: `make_sampler` picks the sampler that suits a pipeline."""

from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline

from stablerep.config.recipe import Recipe
from stablerep.generation.pipeline import FLAT, LoadedPipeline
from stablerep.generation.samplers.flat import FlatSampler
from stablerep.generation.samplers.interface import OnStep, Sampler
from stablerep.generation.samplers.latent import LatentSampler, Networks
from stablerep.generation.samplers.prompt import PromptSampler

__all__ = ["Networks", "OnStep", "Sampler", "make_sampler"]


def make_sampler(loaded: LoadedPipeline, recipe: Recipe, networks: Networks | None = None) -> Sampler:
    """The sampler that suits the pipeline. Raises InvalidInput for a recipe that it cannot follow.

    `networks`: those of Stable Diffusion, compiled; None: as they are.
    """
    if loaded.model == FLAT:
        return FlatSampler(loaded, recipe)
    if isinstance(loaded.pipe, StableDiffusionPipeline | StableDiffusionXLPipeline):
        return LatentSampler(loaded, recipe, networks)
    return PromptSampler(loaded, recipe)
