"""Captions to groups of images: loading a diffusers pipeline, batches, seeds, sampling and encoding."""

from stablerep.generation.drawing import Drawn
from stablerep.generation.generator import Generator
from stablerep.generation.noise import noise_seed
from stablerep.generation.pipeline import (
    LoadedPipeline,
    builtin_revision,
    check_device,
    load_pipeline,
    resolve_model,
)
from stablerep.jobs.recipe import Recipe, load_recipe

__all__ = [
    "Drawn",
    "Generator",
    "LoadedPipeline",
    "Recipe",
    "builtin_revision",
    "check_device",
    "load_pipeline",
    "load_recipe",
    "noise_seed",
    "resolve_model",
]
