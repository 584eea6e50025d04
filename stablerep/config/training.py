"""The configuration of a run: one frozen tree, from a preset or a YAML file plus overrides."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from stablerep.config.augment import AugmentConfig
from stablerep.config.encoder import EncoderSpec
from stablerep.config.loading import parse_value, preset_names, put, read_mapping, read_preset
from stablerep.config.names import check_run
from stablerep.errors import InvalidInput


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class HeadConfig(_Frozen):
    """Sizes of the projection head."""

    hidden: int = Field(default=4096, ge=1)
    out: int = Field(default=256, ge=1)


class OptimizerConfig(_Frozen):
    """AdamW with a linear warm-up from 0 and a half cosine to 0, both by the step.

    The rate is `lr` where given, else `base_lr` x views_per_batch / 512: for the paper's 8,256 views that is
    0.0032. Tensors with fewer than two dimensions (biases, norms) do not decay.
    """

    base_lr: float = Field(default=2e-4, gt=0)
    lr: float | None = Field(default=None, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(default=0.1, ge=0)
    warmup_steps: int = Field(default=0, ge=0)


class TrainConfig(_Frozen):
    """A run. A step sees `views_per_batch` views over all ranks, whatever the objective.

    stablerep: images_per_caption images of a caption, `crops` views of each (default 1), all positives of
    each other. simclr: every image by itself, `crops` views of it (default 2); captions and
    images_per_caption are ignored.
    """

    run: str  # URL: STORE/runs/NAME
    datasets: tuple[str, ...] = Field(min_length=1)  # URLs: STORE/datasets/NAME
    objective: Literal["stablerep", "simclr"] = "stablerep"
    images_per_caption: int = Field(default=6, ge=1)
    crops: int | None = Field(default=None, ge=1)
    views_per_batch: int = Field(default=8256, ge=2)
    temperature: float = Field(default=0.1, gt=0)
    steps: int = Field(ge=1)
    encoder: EncoderSpec = EncoderSpec()
    head: HeadConfig = HeadConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    augment: AugmentConfig = AugmentConfig()
    drop_words: tuple[str, ...] = ()  # taken out of captions; groups whose texts are then equal are pooled
    precision: Literal["auto", "float32", "bfloat16"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**63)
    threads: int = Field(default=1, ge=1)
    decoded_bytes: int = Field(default=10**9, ge=0)  # decode once and keep, if all pixels fit in this
    prefetch: int = Field(default=2, ge=0)  # batches made ahead by a thread; 0: made when needed
    checkpoint_every: int = Field(default=1000, ge=1)
    log_every: int = Field(default=20, ge=1)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.objective == "simclr" and self.views_per_image < 2:
            raise ValueError("crops: simclr needs 2 or more views of an image")
        if self.objective == "stablerep" and self.views_per_caption < 2:
            raise ValueError("images_per_caption: a caption needs 2 or more views to have positives")
        if self.views_per_batch % self.views_per_caption:
            raise ValueError(
                f"views_per_batch: {self.views_per_batch} is no multiple of the "
                f"{self.views_per_caption} views of a caption"
            )
        _run_parts(self.run)
        return self

    @property
    def views_per_image(self) -> int:
        return self.crops or (2 if self.objective == "simclr" else 1)

    @property
    def images_drawn(self) -> int:
        """Images of a caption in a batch; for SimCLR every image is a caption of its own."""
        return 1 if self.objective == "simclr" else self.images_per_caption

    @property
    def views_per_caption(self) -> int:
        return self.images_drawn * self.views_per_image

    @property
    def captions_per_batch(self) -> int:
        return self.views_per_batch // self.views_per_caption

    @property
    def learning_rate(self) -> float:
        """The rate at the end of the warm-up."""
        return self.optimizer.lr or self.optimizer.base_lr * self.views_per_batch / 512

    @property
    def store_url(self) -> str:
        return _run_parts(self.run)[0]

    @property
    def run_name(self) -> str:
        return _run_parts(self.run)[1]


def presets() -> list[str]:
    """Names that `load_train_config` knows."""
    return preset_names("training")


def load_train_config(preset: str | Path, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """A preset's or a YAML file's configuration with overrides, whose keys may be dotted (`optimizer.lr`).

    Overrides given as text are read as YAML. Raises InvalidInput naming what is wrong.
    """
    content = _read(str(preset))
    for key, value in (overrides or {}).items():
        is_yaml = isinstance(value, str) and key != "run"
        put(content, key, parse_value(value, repr(value), key) if is_yaml else value)
    return parse_train_config(content)


def parse_train_config(content: Mapping[str, Any] | str) -> TrainConfig:
    """The configuration in a mapping, or in JSON text. Raises InvalidInput naming what is wrong."""
    try:
        values = json.loads(content) if isinstance(content, str) else content
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        problems = (f"{'.'.join(map(str, e['loc'])) or 'config'}: {e['msg']}" for e in error.errors())
        raise InvalidInput("; ".join(problems), field="config") from error
    except json.JSONDecodeError as error:
        raise InvalidInput(f"not JSON: {error}", field="config") from error


def _read(preset: str) -> dict[str, Any]:
    if "/" not in preset and preset in presets():
        return read_preset("training", preset)
    if Path(preset).is_file():
        return read_mapping(Path(preset), "preset")
    message = f"{preset!r} is neither a file nor one of the presets {', '.join(presets())}"
    raise InvalidInput(message, field="preset")


def _run_parts(url: str) -> tuple[str, str]:
    root, separator, name = url.rstrip("/").rpartition("/runs/")
    if not separator:
        raise ValueError(f"run: {url!r} is no run: want STORE/runs/NAME, such as file:///data/runs/first")
    return root, check_run(name)
