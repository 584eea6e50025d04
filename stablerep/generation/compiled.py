"""A recipe's UNet and autoencoder as compiled graphs, the same ones on every worker of one kind of card.

torch picks kernels by their timing, so that two compilations may differ in an image's last bit. The first
worker's compilation is therefore stored, kernels and choices included, and the others load it: under
`compiled/<card>-<torch>-<networks>/`, `artifact.json` (created only if absent: the first one counts) and the
file that it names by its SHA-256. Recipes that differ only in sampler and steps share it. To load an artifact
is to run code: it is taken only from the store that the shards go to, and only with the checksum that was
recorded when it was made.
"""

import atexit
import hashlib
import logging
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor
from torch._dynamo.utils import counters

from stablerep.building import missing_to_build, pin_rounding
from stablerep.config.recipe import Recipe
from stablerep.devices import short_of_memory
from stablerep.errors import NotFound, StableRepError, TornObject
from stablerep.generation.attention import Attention, Way, fastest_ways
from stablerep.generation.faults import BROKEN_DEVICE, compiler_faults
from stablerep.generation.pipeline import LoadedPipeline
from stablerep.generation.samplers import make_sampler
from stablerep.generation.samplers.latent import LatentSampler, Networks
from stablerep.shards.layout import compiled_prefix
from stablerep.storage import Store

logger = logging.getLogger("stablerep.generation")
_GRAPHS = 2
"""Counted up when the package's own networks change: graphs of before do not fit then."""
SEARCH: dict[str, Any] = {"max_autotune": True, "coordinate_descent_tuning": True, "conv_1x1_as_mm": True}
"""torch's longer search for kernels: of matrix products and convolutions too, and of their sizes."""

Say = Callable[[str], None]


class CannotCompile(StableRepError):
    """This machine or pipeline cannot be compiled for; the networks as they are work all the same."""


class Artifact(BaseModel):
    """`artifact.json`: which compilation counts for a card, a torch, and networks in their shapes."""

    model_config = ConfigDict(frozen=True)

    schema_version: Literal[1] = 1
    sha256: str
    size: int
    card: str
    torch: str
    networks: str
    seconds: float
    attention: dict[str, Way] = {}
    """The way of each shape that is not torch's own choice (`generation.attention`)."""
    search: bool = False
    create_time: datetime


@dataclass(frozen=True)
class Compiled:
    """Compiled networks of a recipe; `artifact` is the SHA-256 of what they were loaded from or stored as.

    batch: images of the batches that they were compiled for; others pass the networks as they are.
    """

    networks: Networks
    artifact: str
    batch: int


def compile_networks(
    loaded: LoadedPipeline,
    recipe: Recipe,
    store: Store,
    say: Say = logger.info,
    *,
    search: bool = False,
    batch: int | None = None,
) -> Compiled | None:
    """Loads the compilation that is in the store, or makes it and stores it; None for other pipelines.

    A process has one at a time: with the next one, those made before are compiled anew if they are used.

    `say` is told what is compiled or loaded, and how long it took.

    Args:
        search: if it is made here, torch times more kernels for each layer: minutes, once a kind of card.
        batch: images of a batch, None for the recipe's; halved until memory suffices for it.
    Raises:
        TornObject: an artifact is not the one that was recorded.
        CannotCompile: for want of a C compiler or of memory, say.
    """
    if not can_compile(loaded, recipe):
        return None
    if loaded.device.type == "cuda" and (missing := missing_to_build()):
        raise CannotCompile(f"{recipe.model} cannot be compiled here: {missing}")
    assert loaded.denoiser is not None  # `can_compile` says so
    pin_rounding()
    batch = batch or recipe.batch_images
    with ExitStack() as failed:
        # Images made without must not depend on what was the fastest here, which no group would tell.
        failed.callback(setattr, loaded.denoiser, "attention", Attention())
        while True:
            try:
                compiled = _load_or_make(loaded, recipe, store, say, search, batch)
                break
            except RuntimeError as error:
                if not short_of_memory(error):
                    raise
                shortage = str(error)  # the error itself would keep the batch's tensors in memory
            _make_room(loaded)
            if batch == 1:
                message = f"{recipe.model} cannot be compiled here, memory does not suffice: {shortage}"
                raise CannotCompile(message)
            say(f"memory does not suffice for batches of {batch} images of {recipe.model}; trying half of it")
            batch //= 2
        failed.pop_all()
    return compiled


def _make_room(loaded: LoadedPipeline) -> None:
    assert loaded.denoiser is not None  # `can_compile` says so
    loaded.denoiser.attention = Attention()  # which may hold tensors of each shape
    torch.compiler.reset()
    if loaded.device.type == "cuda":
        torch.cuda.empty_cache()


def _load_or_make(
    loaded: LoadedPipeline, recipe: Recipe, store: Store, say: Say, search: bool, batch: int
) -> Compiled:
    card = card_name(loaded.device)
    networks_of = networks_digest(recipe, batch)
    prefix = compiled_prefix(card, torch.__version__, networks_of)
    _prepare(loaded)
    denoiser = loaded.denoiser
    assert denoiser is not None  # `can_compile` says so
    while True:
        torch.compiler.reset()  # else graphs of before that suit would be taken for this compilation's
        found = _read(store, prefix)
        began = time.monotonic()
        if found is not None:
            say(f"loading the compiled networks of {recipe.model} from {store.url}/{prefix}")
            denoiser.attention = Attention(found.attention)
            compiled, missed = _load(loaded, recipe, _content(store, prefix, found), found.search, batch)
            if missed:
                logger.warning(
                    "the stored compilation of %s does not fit this machine: %d graphs were compiled anew, "
                    "images may differ from other workers' in the last bit",
                    prefix,
                    missed,
                )
                compiled = Compiled(compiled.networks, hashlib.sha256(_saved()).hexdigest(), batch)
            say(f"loaded the compiled networks in {time.monotonic() - began:.0f} s")
            return compiled
        say(
            f"compiling UNet and autoencoder of {recipe.model} for batches of {batch} "
            f"on {card}: nothing is stored at {prefix} yet"
        )
        denoiser.attention = Attention(_find_ways(loaded, recipe, say, batch))
        with _own_cache():
            networks = _compile(loaded, recipe, search, batch)
            content = _saved()
        seconds = time.monotonic() - began
        say(f"compiled in {seconds:.0f} s ({len(content) / 1e6:.1f} MB)")
        digest = hashlib.sha256(content).hexdigest()
        artifact = Artifact(
            sha256=digest,
            size=len(content),
            card=card,
            torch=torch.__version__,
            networks=networks_of,
            seconds=round(seconds, 1),
            attention=denoiser.attention.ways,
            search=search,
            create_time=datetime.now(UTC),
        )
        store.put(f"{prefix}{digest[:16]}.bin", content)
        created = store.put(f"{prefix}artifact.json", artifact.model_dump_json().encode(), if_absent=True)
        if created or _read(store, prefix) == artifact:  # its own, though the first answer was lost
            say("stored for other workers")
            return Compiled(networks, digest, batch)
        say("another worker was faster; its compilation counts")


def can_compile(loaded: LoadedPipeline, recipe: Recipe) -> bool:
    """Whether the recipe runs in the package's own loop, around a UNet and an autoencoder of diffusers.

    Raises InvalidInput for a recipe that the pipeline cannot follow.
    """
    sampler = make_sampler(loaded, recipe)
    return isinstance(sampler, LatentSampler) and sampler.own_loop and loaded.decoder is not None


def networks_digest(recipe: Recipe, batch: int) -> str:
    """Of what decides the graphs: the networks and their shapes; 16 hexadecimal digits."""
    guided = recipe.guidance_scale > 1
    facts = (
        _GRAPHS,
        recipe.model,
        recipe.revision,
        recipe.dtype,
        recipe.image_size,
        batch,
        guided,
        guided and recipe.guidance_until < 1,
    )
    return hashlib.sha256(repr(facts).encode()).hexdigest()[:16]


def card_name(device: torch.device) -> str:
    """The kind of card that a compilation is for, such as NVIDIA-H200; a CPU by its instructions."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
    else:
        name = f"{device.type}-{torch.backends.cpu.get_cpu_capability()}"
    return re.sub(r"[^A-Za-z0-9.]+", "-", name).strip("-")


def _prepare(loaded: LoadedPipeline) -> None:
    """What makes compiled graphs faster: one projection for queries, keys and values; channels last."""
    for network in (loaded.pipe.unet, loaded.pipe.vae):
        if getattr(network, "original_attn_processors", None) is None:
            network.fuse_qkv_projections()
    for module in (loaded.denoiser, loaded.decoder):
        assert module is not None  # `can_compile` says so
        module.to(memory_format=torch.channels_last)


def _find_ways(loaded: LoadedPipeline, recipe: Recipe, say: Say, batch: int) -> dict[str, Way]:
    """The fastest way of attention for each shape that the recipe's UNet has.

    Both networks run once: where memory does not suffice for a batch, that is known before they are compiled.
    Where it suffices for no more than the batch, nothing is timed.
    """
    denoiser, attention = loaded.denoiser, Attention()
    assert denoiser is not None
    attention.seen = {}
    denoiser.attention = attention
    try:
        with _told(recipe), torch.inference_mode():
            LatentSampler(loaded, recipe).run_once(batch)
            ways = fastest_ways(attention.seen)
    except RuntimeError as error:
        if not short_of_memory(error):
            raise
    else:
        if ways:
            say("attention: " + ", ".join(f"{shape} by {way}" for shape, way in ways.items()))
        return ways
    attention.seen = None
    _make_room(loaded)
    with _told(recipe):
        LatentSampler(loaded, recipe).run_once(batch)
    say("memory does not suffice to time kernels of attention; torch's own choice is taken")
    return {}


def _compile(loaded: LoadedPipeline, recipe: Recipe, search: bool, batch: int) -> Networks:
    """Compiled networks that have run once in every shape that the recipe has."""
    networks = Networks(
        _for_batches_of(batch, loaded.denoiser, search), _for_batches_of(batch, loaded.decoder, search)
    )
    with _told(recipe):
        LatentSampler(loaded, recipe, networks).run_once(batch)
    return networks


@contextmanager
def _told(recipe: Recipe) -> Iterator[None]:
    """What networks raise as they are compiled, in a line: they work as they are, or a batch will tell."""
    try:
        yield
    except compiler_faults() as error:
        cause = getattr(error, "inner_exception", error)  # torch's compiler wraps what happens within it
        if short_of_memory(cause) or isinstance(cause, BROKEN_DEVICE):
            raise cause from None
        first = (str(error).strip() or type(error).__name__).splitlines()[0][:300]
        raise CannotCompile(f"{recipe.model} cannot be compiled here: {first}") from error


def _for_batches_of(batch: int, module: Any, search: bool) -> Callable[..., Tensor]:
    """The module compiled, but as it is for other batches: compiling for each would stop work for minutes."""
    graph = _as_graph(module, search)

    def run(latents: Tensor, *rest: Any) -> Tensor:
        output: Tensor = (graph if len(latents) == batch else module)(latents, *rest)
        return output

    return run


def _as_graph(module: Any, search: bool) -> Callable[..., Tensor]:
    options = SEARCH if search else None
    graph: Callable[..., Tensor] = torch.compile(module, fullgraph=True, dynamic=False, options=options)
    return graph


def _load(
    loaded: LoadedPipeline, recipe: Recipe, content: bytes, search: bool, batch: int
) -> tuple[Compiled, int]:
    """Networks compiled from an artifact, and how many graphs were not in it."""
    with _own_cache():
        torch.compiler.load_cache_artifacts(content)
        before = counters["inductor"]["fxgraph_cache_miss"]
        networks = _compile(loaded, recipe, search, batch)
        missed = counters["inductor"]["fxgraph_cache_miss"] - before
    return Compiled(networks, hashlib.sha256(content).hexdigest(), batch), missed


def _saved() -> bytes:
    saved = torch.compiler.save_cache_artifacts()
    if saved is None:
        raise CannotCompile("this torch keeps no compilation")
    return saved[0]


@contextmanager
def _own_cache() -> Iterator[None]:
    """A cache of compilations that holds nothing yet: another's choices would be taken for this one's."""
    names = ("TORCHINDUCTOR_CACHE_DIR", "TRITON_CACHE_DIR")
    before = {name: os.environ.get(name) for name in names}
    folder = tempfile.mkdtemp(prefix="stablerep-compiled-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)  # kernels are read from it as long as they run
    os.environ.update(dict.fromkeys(names, folder))
    try:
        yield
    finally:
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value


def _read(store: Store, prefix: str) -> Artifact | None:
    key = f"{prefix}artifact.json"
    try:
        return Artifact.model_validate_json(store.get(key))
    except NotFound:
        return None
    except ValidationError as error:
        raise TornObject(f"{key} in {store.url} cannot be read; delete it to have it made again") from error


def _content(store: Store, prefix: str, artifact: Artifact) -> bytes:
    key = f"{prefix}{artifact.sha256[:16]}.bin"
    content = store.get(key)
    if hashlib.sha256(content).hexdigest() != artifact.sha256:
        raise TornObject(
            f"{key} in {store.url} is not what was recorded when it was made, and is not run; delete "
            f"{prefix}artifact.json to have it made again"
        )
    return content
