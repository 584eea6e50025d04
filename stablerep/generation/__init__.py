"""Captions to groups of images: loading a diffusers pipeline, batches, seeds, sampling and encoding."""

from stablerep.config.recipe import Recipe, load_recipe
from stablerep.generation.generator import Generator
from stablerep.generation.noise import noise_seed
from stablerep.generation.pending import GroupPixels
from stablerep.generation.pipeline import (
    LoadedPipeline,
    builtin_revision,
    check_device,
    load_pipeline,
    resolve_model,
)

__all__ = [
    "Generator",
    "GroupPixels",
    "LoadedPipeline",
    "Recipe",
    "builtin_revision",
    "check_device",
    "load_pipeline",
    "load_recipe",
    "noise_seed",
    "resolve_model",
]
