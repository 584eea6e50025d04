"""What tests have done on cards: `python -m tests.card.programs NAME FOLDER` prints what it found as JSON."""

import hashlib
import json
import os
import sys
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stablerep.config.recipe import Recipe
from stablerep.generation import Generator, compiled, load_pipeline
from stablerep.methods import Batch
from stablerep.methods.table import METHODS
from stablerep.runs.config import TrainConfig
from stablerep.shards import Group
from stablerep.storage import open_store
from stablerep.training.distributed import ranks_from_environment
from stablerep.training.learner import build_learner
from stablerep.training.optimizer import build_optimizer
from stablerep.training.step import Backward
from tests.unit.methods.test_methods import ALONE, batch_of, configuration, gradients

CARD = torch.device("cuda", 0)
CAPTIONS = [f"a {colour} {kind}" for colour in ("red", "grey", "dark") for kind in ("shoe", "boot", "bag")]
ON_HOST = {"label_counts", "host_noise"}
"""What of a batch stays there."""


def recipe_of(pipeline: Path, *, batch_images: int = 4) -> Recipe:
    return Recipe(
        model=str(pipeline),
        dtype="float32",
        steps=3,
        guidance_scale=2.0,
        images_per_caption=2,
        batch_images=batch_images,
        image_size=32,
        save_size=32,
        sampler="ddim",
        jpeg_quality=95,
    )


def fault(work: Callable[[], object]) -> str:
    """The first line of what it raises."""
    from torch.cuda._sanitizer import CUDASanitizerErrors  # it watches allocations from its import on

    try:
        work()
    except (RuntimeError, CUDASanitizerErrors) as error:
        return str(error).splitlines()[0]
    return ""


def operations(_: Path) -> dict[str, Any]:
    """The stand-in itself."""
    weight, x = torch.randn(40, 30), torch.randn(50, 40)
    there = (x.to(CARD) @ weight.to(CARD)).softmax(-1)
    before = torch.cuda.get_rng_state()
    drawn, more = torch.rand(5, device=CARD), torch.rand(5, device=CARD)
    torch.cuda.set_rng_state(before)
    side = torch.cuda.Stream()

    def race() -> None:
        with torch.cuda.stream(side):
            there.mul_(2)

    def in_order() -> None:
        side.wait_stream(torch.cuda.current_stream())
        race()

    return {
        "equal": torch.equal(there.cpu(), (x @ weight).softmax(-1)),
        "mixed": fault(lambda: there + torch.randn(50, 30)),
        "drawn again": torch.equal(drawn, torch.rand(5, device=CARD)),
        "drawn on": not torch.equal(drawn, more),
        "in order": fault(in_order),
        "race": fault(lambda: (torch.ones(50, 30, device=CARD, out=there), race())),
        "too much": fault(lambda: torch.empty(int(os.environ["CARD_BYTES"]), device=CARD)),
        "kernel": fault(lambda: torch.ones(4, device=CARD).__repr__()),
    }


def generation(folder: Path) -> dict[str, Any]:
    """Images made in lanes, which are left in `folder`, and in line."""
    recipe = recipe_of(folder / "pipeline")
    pipeline = load_pipeline(recipe)
    generator = Generator(recipe, seed=5, pipeline=pipeline)
    lanes = list(generator.generate(CAPTIONS))
    in_line = Generator(recipe, seed=5, pipeline=pipeline, lanes=False, ahead=0)
    for group in lanes:
        for index, image in enumerate(group.encoded):
            (folder / f"{group.caption_id}-{index}.jpg").write_bytes(image)
    return {
        "device": str(pipeline.device),
        "lanes": generator._lanes._decode is not None,
        "ahead": generator._ahead,
        "same as in line": lanes == list(in_line.generate(CAPTIONS)),
    }


def short_of_memory(folder: Path) -> dict[str, Any]:
    """On a card with half of the memory that a batch takes in lanes."""
    recipe = recipe_of(folder / "pipeline", batch_images=64)
    pipeline = load_pipeline(recipe)
    whole = list(Generator(recipe, pipeline=pipeline).generate(CAPTIONS))
    os.environ["CARD_BYTES"] = str(torch.cuda.max_memory_reserved() // 2)
    torch.cuda.empty_cache()
    generator = Generator(recipe, pipeline=pipeline)
    groups = list(generator.generate(CAPTIONS))
    networks = compiled.compile_networks(pipeline, recipe, open_store(str(folder / "store")))
    assert networks is not None
    return {
        "batch": generator.batch_images,
        "told": [group.info.get("batch_images") for group in groups],
        "finished": all(len(group.encoded) == recipe.images_per_caption for group in groups),
        "lanes": generator._lanes._decode is not None,
        "compiled": networks.batch,
        "by graphs": _distance(
            whole, list(Generator(recipe, pipeline=pipeline, compiled=networks).generate(CAPTIONS))
        ),
    }


def _distance(groups: list[Group], others: list[Group]) -> int:
    """The most levels that an image differs by."""
    pairs = zip(groups, others, strict=True)
    both = [(np.asarray(a), np.asarray(b)) for x, y in pairs for a, b in zip(x.images, y.images, strict=True)]
    return max(int(np.abs(a.astype(int) - b.astype(int)).max()) for a, b in both)


def compiled_generation(folder: Path) -> dict[str, Any]:
    """Images by networks that torch's compiler wrote kernels for, or that were loaded; and without."""
    from torch._dynamo.utils import counters

    recipe = recipe_of(folder / "pipeline")
    pipeline = load_pipeline(recipe)
    plain = list(Generator(recipe, pipeline=pipeline).generate(CAPTIONS[:2]))
    said: list[str] = []
    networks = compiled.compile_networks(pipeline, recipe, open_store(str(folder / "store")), said.append)
    assert networks is not None
    misses = counters["inductor"]["fxgraph_cache_miss"]
    made = list(Generator(recipe, pipeline=pipeline, compiled=networks).generate(CAPTIONS[:2]))
    return {
        "said": said,
        "artifact": networks.artifact,
        "graphs": misses,
        "graphs while used": counters["inductor"]["fxgraph_cache_miss"] - misses,
        "distance": _distance(plain, made),
        "bytes": [hashlib.sha256(data).hexdigest() for group in made for data in group.encoded],
    }


def compiled_methods(_: Path) -> dict[str, Any]:
    """As `methods`, by compiled blocks: how far from the CPU's."""
    from torch._dynamo.utils import counters

    found = {
        "stablerep in 2": _far_from_the_cpu("stablerep", compile=True, encode_parts=2),
        "stablerep recomputed": _far_from_the_cpu("stablerep", compile=True, recompute=True),
        "mae": _far_from_the_cpu("mae", compile=True),
    }
    kernels = counters["inductor"]
    graphs = kernels["fxgraph_cache_miss"] + kernels["fxgraph_cache_hit"]
    return {**found, "graphs": graphs, "breaks": dict(counters["graph_break"])}


def methods(_: Path) -> dict[str, Any]:
    """Of each method, whole and in parts: how far losses and gradients lie from those of the CPU."""
    return {
        f"{name} in {parts}": _far_from_the_cpu(name, encode_parts=parts)
        for name in METHODS
        for parts in (1, 2)
    }


def _far_from_the_cpu(name: str, **changed: Any) -> float:
    """The most that a loss, or a gradient of a weight, lies from the CPU's, where nothing is compiled."""
    config, plain = configuration(name, **changed), configuration(name, **{**changed, "compile": False})
    learner = build_learner(plain, torch.device("cpu"), 1)
    there = build_learner(config, CARD, 1)
    there.load_state_dict(learner.state_dict())
    batch = batch_of(config)
    wanted, _ = Backward(learner, plain, ALONE)(batch)
    with ranks_from_environment() as ranks:
        losses, _ = Backward(there, config, ranks)(_moved(batch))
    pairs = [(losses[key].cpu(), wanted[key]) for key in wanted]
    on_card, on_cpu = gradients(there), gradients(learner)
    assert on_card.keys() == on_cpu.keys()
    pairs += [(on_card[key].cpu(), on_cpu[key]) for key in on_cpu]
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


def parts(_: Path) -> dict[str, Any]:
    """On smaller and smaller cards: a batch's parts, and what three steps take of what they take whole."""
    captions = 32

    def take(config: TrainConfig) -> tuple[int | None, int]:
        with ranks_from_environment() as ranks:
            learner = build_learner(config, CARD, 1)
            optimizer, backward = build_optimizer(learner, config), Backward(learner, config, ranks)
            batch = _moved(batch_of(config, captions=captions))
            torch.cuda.reset_peak_memory_stats()
            for _ in range(3):
                backward(batch)
                optimizer.step()
                optimizer.zero_grad()
        return backward.parts, torch.cuda.max_memory_allocated()

    encoder = configuration("stablerep").encoder.model_dump()
    encoder["kwargs"] |= {"embed_dim": 192, "depth": 4}
    settings = {"encoder": encoder, "views_per_batch": 3 * captions}
    _, whole = take(configuration("stablerep", encode_parts=1, **settings))
    found = {}
    for share in (1.5, 0.85, 0.6):
        torch.cuda.empty_cache()
        os.environ["CARD_BYTES"] = str(int(torch.cuda.memory_reserved() + share * whole))
        number, taken = take(configuration("stablerep", encode_parts="auto", **settings))
        found[str(share)] = [number, taken / whole]
    return found


def _moved(batch: Batch) -> Batch:
    named = {each.name: getattr(batch, each.name) for each in fields(batch) if each.name not in ON_HOST}
    moved = {name: one.to(CARD) for name, one in named.items() if isinstance(one, Tensor)}
    return replace(batch, **moved, host_noise=batch.noise)


if __name__ == "__main__":
    print(json.dumps(globals()[sys.argv[1]](Path(sys.argv[2]))))
