"""Captions to groups of images: loading a diffusers pipeline, batches, seeds, sampling and encoding."""

from stablerep.generation.generator import Generator
from stablerep.generation.noise import noise_seed
from stablerep.generation.pipeline import LoadedPipeline, builtin_revision, load_pipeline, resolve_model
from stablerep.jobs.recipe import Recipe, load_recipe

__all__ = [
    "Generator",
    "LoadedPipeline",
    "Recipe",
    "builtin_revision",
    "load_pipeline",
    "load_recipe",
    "noise_seed",
    "resolve_model",
]
