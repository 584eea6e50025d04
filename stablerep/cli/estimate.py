"""The verb `estimate`: what a job would cost before it is submitted, with where each figure comes from."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from stablerep.cli.connection import Connection, connected_to_worker
from stablerep.cli.jobs import ChosenRecipe, Header, Set, choose_recipe, split_overrides
from stablerep.cli.show import Json, print_json
from stablerep.errors import InvalidInput
from stablerep.jobs.estimate import (
    LEASES,
    REPORTED_SECONDS,
    Counted,
    Estimate,
    Figure,
    count_captions,
    estimate_job,
    images_in_batches,
    reported_speed,
)
from stablerep.progress import console

if TYPE_CHECKING:
    from stablerep.captions import Source
    from stablerep.config.recipe import Preset, Recipe

_UNITS = ("bytes", "kB", "MB", "GB", "TB", "PB")


@dataclass(frozen=True)
class _Measured:
    """What was measured: seconds and bytes an image."""

    speed: Figure
    image_bytes: Figure


@connected_to_worker
def estimate(
    captions: Annotated[
        str, typer.Argument(help="Caption file, WebDataset shards, or a URL; read here, nothing is sent.")
    ],
    preset: Annotated[str, typer.Option("--preset", help="Recipe preset or YAML file.")] = "sd15",
    overrides: Set = None,
    seconds_per_image: Annotated[
        float, typer.Option("--seconds-per-image", min=0, help="Of one worker, as you know it; 0: not known.")
    ] = 0.0,
    gpu: Annotated[
        str, typer.Option("--gpu", help=f"Take what was reported for it: {', '.join(REPORTED_SECONDS)}.")
    ] = "a100",
    worker: Annotated[str, typer.Option("--worker", help="HOST:PORT of a worker to measure on.")] = "",
    measure: Annotated[
        int,
        typer.Option(
            "--measure",
            min=0,
            help="Images to make for a measurement, here or on the worker.",
        ),
    ] = 0,
    format: Annotated[str, typer.Option(help="Format of the captions; default: by the file name.")] = "",
    column: Annotated[
        str,
        typer.Option(help="Name or number (from 0) of the captions' column; default: a usual name."),
    ] = "",
    header: Header = None,
    limit: Annotated[int, typer.Option(min=0, help="Maximum number of captions; 0: all.")] = 0,
    captions_per_shard: Annotated[
        int, typer.Option(min=0, help="Captions in one shard; 0: the preset's.")
    ] = 0,
    as_json: Json = False,
    *,
    connection: Connection,
) -> None:
    """Estimates a job's cost: images, GPU-hours, storage, shards, memory of the queue.

    The speed is yours (--seconds-per-image), measured on a worker or here (--worker, --measure), or the one
    reported for Stable Diffusion 1.5 on a GPU (--gpu); without any of them no hours are printed.

    Examples:

        stablerep estimate cc12m.tsv.gz --preset sd15 --gpu v100

        stablerep estimate captions.txt --preset tiny --measure 64

        stablerep estimate captions.txt --preset sd15 --set steps=30 --worker 10.0.0.7:50052
    """
    from stablerep.config.recipe import Preset, load

    loaded = load(preset, split_overrides(overrides))
    loaded = Preset(loaded.recipe, captions_per_shard or loaded.captions_per_shard)
    counted = _count(captions, format, column, header, limit)
    recipe, measured = loaded.recipe, None
    if worker:
        chosen = choose_recipe(preset, overrides)
        measured = _measure_worker(connection, worker, chosen, recipe, counted, measure)
    elif measure:
        measured = _measure_here(recipe, counted, measure)
    if seconds_per_image:
        speed: Figure | None = Figure(seconds_per_image, "given by --seconds-per-image")
    else:
        speed = measured.speed if measured else reported_speed(recipe, gpu)
    size = measured.image_bytes if measured else None
    found = estimate_job(counted.captions, loaded, speed=speed, image_bytes=size)
    if as_json:
        print_json({"estimate": found, "seconds_per_image": speed, "recipe": loaded.recipe.model_dump()})
        return
    _show(found, loaded, speed, measured=measured is not None and not seconds_per_image)


def _count(captions: str, format: str, column: str, header: bool | None, limit: int) -> Counted:
    from stablerep.captions import describe, read_captions

    with _opened(captions) as source, console.status(f"counting the captions of {captions}") as status:
        for line in describe(source, format=format, column=column, header=header).lines():
            console.print(f"  {line}")
        return count_captions(
            read_captions(source, format=format, column=column, header=header, limit=limit),
            lambda count: status.update(f"{count:,} captions of {captions}"),
        )


@contextmanager
def _opened(captions: str) -> Iterator[Source]:
    """The source as it is here; a URL is fetched into a temporary file first."""
    from stablerep.captions import open_source
    from stablerep.client.captions import choose_captions

    if captions.startswith("store:"):
        raise InvalidInput(f"{captions} is known to the gateway alone; give a file or URL", field="captions")
    if "://" not in captions:
        yield open_source(captions)
        return
    with choose_captions(captions, upload=True) as chosen:
        assert chosen.path is not None
        yield open_source(str(chosen.path))


def _measure_worker(
    connection: Connection, worker: str, chosen: ChosenRecipe, recipe: Recipe, counted: Counted, images: int
) -> _Measured:
    """Times previews: the first loads the pipeline and does not count. A batch is paid for whole."""
    of_a_preview = images_in_batches(recipe.images_per_caption, recipe.batch_images)
    rounds = max(1, -(-images // of_a_preview))
    texts = [counted.first[number % len(counted.first)] for number in range(rounds + 1)]
    with connection.worker(worker) as client, console.status(f"measuring on {worker}"):
        state = client.status().state
        encoded: list[bytes] = []
        began = 0.0
        for number, text in enumerate(texts):
            group = client.preview(text, preset=chosen.preset, recipe=chosen.overrides)
            if number == 0:
                began = time.perf_counter()
            else:
                encoded += group
    seconds = time.perf_counter() - began
    where = f"measured on the worker {worker}"
    if state != "IDLE":
        where += f", which was {state} besides: an upper bound"
    return _measured(seconds, rounds * of_a_preview, encoded, where)


def _measure_here(recipe: Recipe, counted: Counted, images: int) -> _Measured:
    """Times groups made on this machine, after one that warms up."""
    import platform

    import diffusers
    import transformers

    from stablerep.generation import Generator

    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()
    rounds = max(1, -(-images // recipe.images_per_caption))
    texts = [counted.first[number % len(counted.first)] for number in range(rounds)]
    with console.status("measuring here"):
        generator = Generator(recipe)
        list(generator.generate(texts[:1]))
        began = time.perf_counter()
        encoded = [image for group in generator.generate(texts) for image in group.encoded]
        seconds = time.perf_counter() - began
    made = images_in_batches(rounds * recipe.images_per_caption, recipe.batch_images)
    return _measured(seconds, made, encoded, f"measured here, on {platform.node()} ({_device()})")


def _device() -> str:
    import torch

    if torch.cuda.is_available():
        return str(torch.cuda.get_device_name())
    return f"CPU, {torch.get_num_threads()} threads"


def _measured(seconds: float, made: int, encoded: Sequence[bytes], where: str) -> _Measured:
    if not encoded:
        raise InvalidInput("the captions tried gave no image to measure", field="captions")
    size = sum(map(len, encoded)) / len(encoded)
    text = f"{where}: {len(encoded)} images"
    return _Measured(Figure(seconds / made, text), Figure(size, text))


def _show(found: Estimate, preset: Preset, speed: Figure | None, *, measured: bool) -> None:
    hours = ("unknown", "give --seconds-per-image, --worker HOST:PORT or --measure N")
    if found.hours is not None and speed is not None:
        hours = (f"{found.hours.value:,.2f}", f"{speed.value:.4g} s an image, {speed.source}")
    rows = (
        ("captions", f"{found.captions:,}", ""),
        ("images", f"{found.images:,}", f"{preset.recipe.images_per_caption} a caption"),
        ("worker-hours" if measured else "GPU-hours", *hours),
        ("storage", _bytes(found.storage_bytes.value), found.storage_bytes.source),
        ("shards", f"{found.shards:,}", f"{preset.captions_per_shard} captions each"),
        ("queue memory", _bytes(found.redis_bytes), f"of Redis: a bit a shard, and {LEASES} leases"),
    )
    for name, value, source in rows:
        console.print(f"{name:<13} {value:<12} {source}".rstrip())


def _bytes(number: float) -> str:
    power = 0
    while number >= 1000 and power < len(_UNITS) - 1:
        number /= 1000
        power += 1
    return f"{number:.3g} {_UNITS[power]}"
