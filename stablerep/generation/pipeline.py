"""Loads a diffusers text-to-image pipeline by hub id, folder or `builtin:` name; safetensors only."""

import hashlib
import inspect
import json
import pkgutil
import warnings
from dataclasses import dataclass
from functools import cache, cached_property
from importlib import resources
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import diffusers
import torch
from diffusers import DDIMScheduler, DiffusionPipeline, DPMSolverMultistepScheduler
from huggingface_hub.errors import LocalEntryNotFoundError, OfflineModeIsEnabled
from safetensors import SafetensorError
from torch import nn

from stablerep.config.recipe import Recipe
from stablerep.devices import short_of_memory
from stablerep.errors import InvalidInput, NotFound, StableRepError, Unavailable
from stablerep.generation.decoder import Decoder, can_decode
from stablerep.generation.denoiser import Denoiser, can_denoise
from stablerep.generation.faults import BROKEN_DEVICE

KNOWN_MODULES = frozenset(module.name for module in pkgutil.iter_modules(diffusers.pipelines.__path__))
"""Modules of diffusers that hold parts of one pipeline alone (`stable_diffusion`: its safety checker)."""
BUILTIN_PREFIX = "builtin:"
BUILTIN_FOLDERS = {"builtin:fashion": "fashion_pipeline"}
FLAT = "builtin:flat"
"""No pipeline: `samplers.flat` makes images of one colour."""


@dataclass(frozen=True)
class LoadedPipeline:
    """A pipeline in memory; recipes that differ only in sampler, steps, guidance, size or batch share it.

    `scheduler` is the one that the pipeline came with; samplers are made from its configuration.
    """

    model: str
    revision: str
    dtype: str
    device: torch.device
    pipe: Any
    scheduler: Any

    def fits(self, recipe: Recipe) -> bool:
        """Whether the recipe needs this pipeline and no other."""
        return (self.model, self.revision, self.dtype) == (recipe.model, recipe.revision, recipe.dtype)

    @cached_property
    def denoiser(self) -> Denoiser | None:
        """The UNet as the package runs it itself; None for pipelines of another kind."""
        unet = getattr(self.pipe, "unet", None)
        return Denoiser(unet) if can_denoise(unet) else None

    @cached_property
    def decoder(self) -> Decoder | None:
        """The same of the autoencoder, in the type that it has when this is first asked for."""
        vae = getattr(self.pipe, "vae", None)
        return Decoder(vae) if can_decode(vae) else None


def default_device() -> torch.device:
    """cuda where there is a GPU, then mps, else cpu."""
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")


def resolve_model(model: str) -> str:
    """The folder behind a `builtin:` name; a folder or hub id as it is. Raises InvalidInput."""
    if not model.startswith(BUILTIN_PREFIX):
        return model
    if model not in BUILTIN_FOLDERS:
        names = ", ".join([*BUILTIN_FOLDERS, FLAT])
        raise InvalidInput(f"no pipeline {model!r}; there are {names}", field="model")
    return str(resources.files("stablerep") / "assets" / BUILTIN_FOLDERS[model])


@cache
def builtin_revision(model: str) -> str:
    """Which version of a `builtin:` pipeline is installed: 16 hexadecimal digits.

    They begin the SHA-256 over paths and contents of all that is loaded, in order of path: safetensors and
    JSON, but not the README and the measurements beside them. Raises InvalidInput for a name there is not.
    """
    folder = Path(resolve_model(model))
    files = {
        path.relative_to(folder).as_posix(): path
        for path in folder.rglob("*")
        if path.suffix in (".safetensors", ".json") and path.name != "measurements.json"
    }
    digest = hashlib.sha256()
    for name, path in sorted(files.items()):
        with path.open("rb") as file:
            content = hashlib.file_digest(file, "sha256").hexdigest()
        digest.update(f"{content}  {name}\n".encode())
    return digest.hexdigest()[:16]


def load_pipeline(recipe: Recipe, device: torch.device | str | None = None) -> LoadedPipeline:
    """Loads the recipe's pipeline onto a device (empty or None: the best there is).

    Raises:
        NotFound: neither a folder nor a model that the hub or its cache gives.
        Unavailable: the hub, which may have the model, cannot be reached.
        InvalidInput: `device` cannot be had, the model is no text-to-image pipeline in safetensors, or a
            builtin one at a revision that is not the installed one.
    """
    target = check_device(device)
    if recipe.model == FLAT:
        return LoadedPipeline(FLAT, recipe.revision, recipe.dtype, target, None, None)
    source = resolve_model(recipe.model)
    _check_builtin(recipe)
    config = _read_config(source, recipe)
    _check_parts(recipe, source, config)
    # The checker replaces images by black ones and takes 1.2 GB; the paper ran without.
    without = {name: None for name in ("safety_checker",) if name in config}
    try:
        with warnings.catch_warnings():
            # Of names that diffusers will change, and of settings in other people's pipelines.
            warnings.simplefilter("ignore", FutureWarning)
            pipe = DiffusionPipeline.from_pretrained(
                source,
                revision=recipe.revision or None,
                torch_dtype=getattr(torch, recipe.dtype),
                use_safetensors=True,
                **without,
            ).to(target)
    except OSError as error:
        _check_hub(recipe, error)
        raise InvalidInput(
            f"{recipe.model} cannot be loaded: {_first_line(error)} Weights are read from safetensors only: "
            "save a model that has others with `save_pretrained(folder, safe_serialization=True)`",
            field="model",
        ) from error
    except (SafetensorError, UnpicklingError) as error:
        # A list of files may name others; torch takes tensors from them then, and nothing else.
        raise InvalidInput(
            f"{recipe.model} cannot be loaded: a file of its weights is not in safetensors", field="model"
        ) from error
    except (ValueError, TypeError, AttributeError, ImportError, LookupError, RuntimeError) as error:
        if short_of_memory(error):
            message = f"{recipe.model} does not fit into the memory: {_first_line(error)}"
            raise StableRepError(message) from error
        if isinstance(error, BROKEN_DEVICE):
            raise
        raise InvalidInput(f"{recipe.model} cannot be loaded: {_first_line(error)}", field="model") from error
    if "prompt" not in inspect.signature(type(pipe).__call__).parameters:
        raise InvalidInput(f"{recipe.model} is a {type(pipe).__name__}, which takes no prompt", field="model")
    pipe.set_progress_bar_config(disable=True)
    if target.type == "cpu":
        # The shipped pipeline is 1.4 times faster so; SD 1.5's UNet was slower on an H200 (105, not 96 ms).
        for part in pipe.components.values():
            if isinstance(part, nn.Module):
                part.to(memory_format=torch.channels_last)
    return LoadedPipeline(
        recipe.model, recipe.revision, recipe.dtype, target, pipe.to(target), pipe.scheduler
    )


def make_scheduler(loaded: LoadedPipeline, sampler: str) -> Any:
    """A scheduler of its own for `ddim`, `dpm++` or `pipeline` (the class and settings it came with).

    Raises InvalidInput where the pipeline's noise schedule does not suit the sampler (flow matching, say).
    """
    own = loaded.scheduler
    kinds: dict[str, Any] = {
        "ddim": DDIMScheduler,
        "dpm++": DPMSolverMultistepScheduler,
        "pipeline": type(own),
    }
    kind = kinds[sampler]
    if kind is not type(own) and kind not in getattr(own, "compatibles", ()):
        raise InvalidInput(
            f"{loaded.model} samples by {type(own).__name__}, which {sampler} cannot replace; use `pipeline`",
            field="sampler",
        )
    return kind.from_config(own.config)


def _check_builtin(recipe: Recipe) -> None:
    """Other weights under the same name would make a dataset of two kinds of images."""
    if not recipe.model.startswith(BUILTIN_PREFIX) or not recipe.revision:
        return
    installed = builtin_revision(recipe.model)
    if recipe.revision != installed:
        raise InvalidInput(
            f"the dataset was made with another version of the pipeline: the recipe wants {recipe.model} at "
            f"{recipe.revision}, and {installed} is installed; install the stablerep that it was made with, "
            "or make a new dataset",
            field="revision",
        )


def check_device(device: torch.device | str | None = None) -> torch.device:
    """The device (empty or None: the best there is), tried out. Raises InvalidInput if it can't be used."""
    try:
        target = torch.device(device) if device else default_device()
        torch.empty(1, device=target).sum().item()
    except (RuntimeError, AssertionError) as error:  # torch without CUDA raises an AssertionError
        raise InvalidInput(f"{device} cannot be used here: {_first_line(error)}", field="device") from error
    return target


def _check_hub(recipe: Recipe, error: BaseException) -> None:
    """Raises Unavailable if the error comes of a hub that does not answer, not of what it answered."""
    causes = set()
    cause: BaseException | None = error
    while cause is not None:
        causes.add(type(cause))
        cause = cause.__cause__ or cause.__context__
    # A user who set HF_HUB_OFFLINE wants no hub: what the cache lacks is not there.
    if LocalEntryNotFoundError in causes and OfflineModeIsEnabled not in causes:
        raise Unavailable(
            f"the hub that should have {recipe.model} cannot be reached: {_first_line(error)}"
        ) from error


def _read_config(source: str, recipe: Recipe) -> dict[str, Any]:
    """The pipeline's model_index.json, read before gigabytes are."""
    try:
        return dict(DiffusionPipeline.load_config(source, revision=recipe.revision or None))
    except OSError as error:
        if source != recipe.model or Path(source).is_dir():
            raise InvalidInput(
                f"{recipe.model} ({source}) holds no pipeline: {_first_line(error)}", field="model"
            ) from error
        _check_hub(recipe, error)
        at = f" at revision {recipe.revision}" if recipe.revision else ""
        raise NotFound(
            f"model: {recipe.model}{at} is no folder here, nor given by the hub: {_first_line(error)}; "
            "check the name, log in to the hub if the model is gated, or download it and give its folder"
        ) from error
    except (ValueError, json.JSONDecodeError) as error:
        raise InvalidInput(
            f"{recipe.model!r} is no folder, hub id or builtin name: {_first_line(error)}", field="model"
        ) from error


def _check_parts(recipe: Recipe, source: str, config: dict[str, Any]) -> None:
    """Refuses a pipeline that brings code of its own or names a module to import, before anything is loaded.

    diffusers refuses most of them too, depending on its version.
    """
    parts = {
        name: part for name, part in config.items() if name[:1] != "_" and isinstance(part, list | tuple)
    }
    foreign = [name for name, part in parts.items() if _is_foreign(source, name, part[0] if part else None)]
    if not isinstance(config.get("_class_name"), str) or (Path(source) / "None.py").exists():
        foreign.append("the pipeline itself")
    if foreign:
        names = ", ".join(foreign)[:200]
        raise InvalidInput(
            f"{recipe.model} brings code of its own ({names}), which is never run; choose a pipeline whose "
            "classes are those of diffusers and transformers",
            field="model",
        )


def _is_foreign(source: str, name: str, library: Any) -> bool:
    """Whether a part's class comes from elsewhere; a file named like the library would be taken for it."""
    if library is None:
        return False  # a part left out
    if not isinstance(library, str) or library not in {"diffusers", "transformers", *KNOWN_MODULES}:
        return True
    return (Path(source) / name / f"{library}.py").exists()


def _first_line(error: BaseException) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0][:300]
