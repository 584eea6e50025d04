"""Generation on a CPU, beside a loop over diffusers' own pipeline.

    python -m benchmarks.generation      # writes benchmarks/results/generation.json, six minutes on two cores

The preset `tiny` (the pipeline in this package, 20 DDIM steps with guidance, 32 px, float32) on one thread,
from captions to JPEG files, and the same pipeline, sampler, steps and batch as diffusers' docs call it, with
Pillow's JPEG; then a pass of the UNet and of the autoencoder alone. Last a pass of a UNet of
Stable Diffusion 1.5's size with random weights, four images of 512 px with guidance, on all cores. Both take
turns, so that another program's load meets both; each has its fastest turn.
"""

import argparse
import io
import json
import platform
import time
from collections.abc import Callable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from diffusers import DDIMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from torch import Tensor

from benchmarks.loss import hardware
from stablerep.config.recipe import load_recipe
from stablerep.generation import Generator
from stablerep.generation.denoiser import Denoiser
from stablerep.generation.pipeline import load_pipeline, resolve_model

RESULT = Path(__file__).parent / "results" / "generation.json"
BATCHES = 2
LARGE_IMAGES = 4


def fastest(ways: dict[str, Callable[[], object]], turns: int) -> dict[str, float]:
    """Seconds of each way's fastest turn, after one that does not count."""
    taken: dict[str, list[float]] = {name: [] for name in ways}
    for turn in range(turns + 1):
        for name, way in ways.items():
            began = time.perf_counter()
            way()
            if turn:
                taken[name].append(time.perf_counter() - began)
    return {name: min(each) for name, each in taken.items()}


def images_per_second(turns: int) -> dict[str, float]:
    """Of the preset `tiny`, through JPEG."""
    recipe = load_recipe("tiny")
    captions = BATCHES * recipe.batch_images // recipe.images_per_caption
    texts = [f"white plain boot number {number} with a high heel" for number in range(captions)]
    generator = Generator(recipe, device="cpu")
    pipe = StableDiffusionPipeline.from_pretrained(resolve_model(recipe.model))
    pipe.scheduler = DDIMScheduler.from_config(pipe.scheduler.config)
    pipe.set_progress_bar_config(disable=True)
    each = recipe.batch_images // recipe.images_per_caption

    def plain() -> None:
        for start in range(0, captions, each):
            made = pipe(
                texts[start : start + each],
                num_images_per_prompt=recipe.images_per_caption,
                num_inference_steps=recipe.steps,
                guidance_scale=recipe.guidance_scale,
                height=recipe.image_size,
                width=recipe.image_size,
            ).images
            for image in made:
                image.save(io.BytesIO(), "JPEG", quality=recipe.jpeg_quality)

    seconds = fastest({"stablerep": lambda: list(generator.generate(texts)), "diffusers": plain}, turns)
    return {name: round(BATCHES * recipe.batch_images / taken, 2) for name, taken in seconds.items()}


def passes(
    unet: Any, denoiser: Denoiser, images: int, side: int, tokens: int, turns: int
) -> dict[str, float]:
    """Milliseconds of one pass of the UNet with guidance, and how far the outputs are apart."""
    width = unet.config.cross_attention_dim
    x, states = torch.randn(images, 4, side, side), torch.randn(2 * images, tokens, width)
    when = torch.tensor([500])
    time_added, texts = denoiser.times(when)[0], denoiser.texts(states)

    def plain() -> Tensor:
        output: Tensor = unet(torch.cat([x, x]), when[0], states, return_dict=False)[0]
        return output

    def ours() -> Tensor:
        output: Tensor = denoiser(x, time_added, texts)
        return output

    wanted = plain()
    error = float((ours() - wanted).abs().max() / wanted.abs().max())
    seconds = fastest({"stablerep": ours, "diffusers": plain}, turns)
    return {
        **{name: round(1e3 * taken, 1) for name, taken in seconds.items()},
        "error": float(f"{error:.2g}"),
    }


@torch.inference_mode()
def measure() -> dict[str, Any]:
    cores = torch.get_num_threads()
    torch.set_num_threads(1)
    result: dict[str, Any] = {"tiny, one thread, images a second": images_per_second(turns=4)}
    recipe = load_recipe("tiny")
    loaded = load_pipeline(recipe, "cpu")
    plain = StableDiffusionPipeline.from_pretrained(resolve_model(recipe.model))
    assert loaded.denoiser is not None
    assert loaded.decoder is not None
    decoder, vae = loaded.decoder, plain.vae
    images, side = recipe.batch_images, recipe.image_size // plain.vae_scale_factor
    result["UNet of tiny, one thread, ms"] = passes(plain.unet, loaded.denoiser, images, side, 32, turns=20)
    latents = torch.randn(images, 4, side, side)
    ways = {
        "stablerep": lambda: decoder(latents),
        "diffusers": lambda: vae.decode(latents, return_dict=False),
    }
    result["autoencoder of tiny, one thread, ms"] = {
        name: round(1e3 * taken, 1) for name, taken in fastest(ways, turns=20).items()
    }
    torch.set_num_threads(cores)
    torch.manual_seed(0)
    large = UNet2DConditionModel(sample_size=64, cross_attention_dim=768, attention_head_dim=8)
    # Channels last, as the package loads it on a CPU; diffusers alone is as fast either way.
    large = large.eval().to(memory_format=torch.channels_last)
    name = f"UNet of Stable Diffusion 1.5's size, {2 * LARGE_IMAGES} rows, {cores} threads, ms"
    result[name] = passes(large, Denoiser(large), LARGE_IMAGES, 64, 77, turns=3)
    return result


def main() -> None:
    argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    ).parse_args()
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware().removeprefix("one thread of "),
        "command": "python -m benchmarks.generation",
        "versions": {
            **{name: version(name) for name in ("torch", "diffusers")},
            "python": platform.python_version(),
        },
        **measure(),
    }
    RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(json.dumps(report, indent=1))


if __name__ == "__main__":
    main()
