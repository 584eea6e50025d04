"""The configuration of a run: one frozen tree, from a preset or a YAML file plus overrides."""

import copy
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    PositiveInt,
    SerializeAsAny,
    ValidationError,
    field_validator,
    model_validator,
)

from stablerep.config.augment import AugmentConfig
from stablerep.config.encoder import EncoderSpec
from stablerep.config.loading import (
    dotted,
    parse_value,
    preset_names,
    put,
    read_mapping,
    read_preset,
)
from stablerep.config.names import check_run
from stablerep.errors import InvalidInput
from stablerep.methods.interface import HeadConfig, MethodConfig
from stablerep.methods.stablerep import StableRep
from stablerep.methods.table import read_method

_SCHEMA_1 = ("objective", "images_per_caption", "crops", "temperature")


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class OptimizerConfig(_Frozen):
    """AdamW with a linear warm-up from 0 and a half cosine to 0, both by the step.

    The rate is `lr` where given, else `base_lr` x views_per_batch / 512: for the paper's 8,256 views that is
    0.0032. Tensors with fewer than two dimensions (biases, norms) do not decay. The decay goes from
    `weight_decay` to `weight_decay_end` by half a cosine, where that is given. `clip_norm` bounds the
    gradient's norm.
    """

    base_lr: float = Field(default=2e-4, gt=0)
    lr: float | None = Field(default=None, gt=0)
    betas: tuple[float, float] = (0.9, 0.98)
    weight_decay: float = Field(default=0.1, ge=0)
    weight_decay_end: float | None = Field(default=None, ge=0)
    clip_norm: float | None = Field(default=None, gt=0)
    warmup_steps: int = Field(default=0, ge=0)


class OnlineProbeConfig(_Frozen):
    """Probes during training: every `every` steps (0: none), on photographs that `stablerep probe` takes.

    At most `photographs` of the training and of the test part are used. `keep_best` keeps the encoder with
    the best linear accuracy so far as best/ beside the run's export/.
    """

    every: int = Field(default=0, ge=0)
    data: str = "fashion"
    photographs: int = Field(default=1000, ge=2)
    keep_best: bool = False


class TrainConfig(_Frozen):
    """A run. A step sees `views_per_batch` views over all ranks, whatever the method.

    `dataset_weights`, one a dataset, are the shares of every batch that come from each; without them all
    groups are one pool. `method` is a name, or a mapping of a name and the method's options
    (stablerep/methods/). `head` are the sizes of its projection head, where it has one.
    """

    run: str  # URL: STORE/runs/NAME
    datasets: tuple[str, ...] = Field(min_length=1)  # URLs: STORE/datasets/NAME
    dataset_weights: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = ()  # () pools them all
    follow: bool = False  # the first epoch is in the order of the plan, whose shards are waited for
    method: SerializeAsAny[MethodConfig] = StableRep()
    init: str = ""  # a run, an export or a model of timm's whose weights the encoder begins with
    views_per_batch: int = Field(default=8256, ge=2)
    steps: int = Field(ge=1)
    encoder: EncoderSpec = EncoderSpec()
    head: HeadConfig = HeadConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    augment: AugmentConfig = AugmentConfig()
    online_probe: OnlineProbeConfig = OnlineProbeConfig()
    drop_words: tuple[str, ...] = ()  # taken out of captions; groups whose texts are then equal are pooled
    precision: Literal["auto", "float32", "bfloat16", "float16", "float64"] = "auto"
    seed: int = Field(default=0, ge=0, lt=2**63)
    threads: int = Field(default=1, ge=1)
    encode_parts: Literal["auto"] | PositiveInt = "auto"  # a process encodes its share in so many parts
    recompute: bool = False  # a ViT's activations are computed again for the gradient: less memory
    shard: bool = False  # weights, gradients, optimiser spread over processes (FSDP2): less memory
    compile: Literal["auto"] | bool = "auto"  # the encoder's blocks, by torch.compile; see compiling.py
    average: float = Field(default=0.0, ge=0, lt=1)  # momentum of a moving average, then what is exported
    keep_checkpoints: int = Field(default=2, ge=1)
    tracker: Literal["none", "trackio", "wandb"] = "none"  # another place for the metrics, if installed
    resolution: int | None = Field(default=None, ge=8)  # see decoded_resolution
    damaged_share: float = Field(default=0.01, ge=0, le=1)  # more damaged images than this end the run
    decoded_bytes: int = Field(default=10**9, ge=0)  # decode once and keep, if all pixels fit in this
    augment_on: Literal["auto", "cpu", "device"] = "auto"  # see augments_on_cpu
    prefetch: int = Field(default=2, ge=0)  # batches made ahead; 0: made when needed
    load_in: Literal["auto", "thread", "process"] = "auto"  # who reads and decodes; see feeding.py
    checkpoint_every: int = Field(default=1000, ge=1)
    log_every: int = Field(default=20, ge=1)

    @model_validator(mode="before")
    @classmethod
    def _read_schema_1(cls, content: Any) -> Any:
        """Runs that started before methods had options of their own stay what they are."""
        if not isinstance(content, dict):
            return content
        if "method" in content:
            if misplaced := [name for name in _SCHEMA_1 if name in content]:
                name = misplaced[0]
                better = "method=NAME" if name == "objective" else f"method.{name}=..."
                raise ValueError(f"{name}: belongs to the method: set {better}")
            return content
        method = {name: content[name] for name in _SCHEMA_1 if content.get(name) is not None}
        if not method:
            return content
        method["name"] = method.pop("objective", "stablerep")
        if method["name"] == "simclr":
            method.pop("images_per_caption", None)
        return {name: value for name, value in content.items() if name not in _SCHEMA_1} | {"method": method}

    @field_validator("method", mode="before")
    @classmethod
    def _read_method(cls, value: Any) -> MethodConfig:
        return read_method(value)

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.dataset_weights and len(self.dataset_weights) != len(self.datasets):
            raise ValueError(
                f"dataset_weights: {len(self.dataset_weights)} weights for {len(self.datasets)} datasets"
            )
        if self.shard and self.precision == "float16":
            raise ValueError("shard: float16's loss scale is not made for it; use precision=bfloat16")
        views = self.method.needs().views
        if self.views_per_batch // views < 2:
            raise ValueError(
                f"views_per_batch: {self.views_per_batch} are the views of one caption; contrast and batch "
                f"norm need two or more, so at least {2 * views}"
            )
        if self.views_per_batch % views:
            raise ValueError(
                f"views_per_batch: {self.views_per_batch} is no multiple of the {views} views of a caption"
            )
        _run_parts(self.run)
        return self

    @property
    def captions_per_batch(self) -> int:
        return self.views_per_batch // self.method.needs().views

    @property
    def decoded_resolution(self) -> int:
        """Images whose shorter side is longer are shrunk to it, at their own aspect, before crops are taken.

        By default the paper's proportion, images of 256 pixels for crops of 224.
        """
        return self.resolution or round(self.encoder.image_size * 256 / 224)

    def augments_on_cpu(self, device: str) -> bool:
        """Whether threads augment views one by one, in bytes; else the device does, a batch at once.

        By default where the device is a CPU and views have 48 pixels or more: there it takes a tenth of the
        time at 224. The views are the same but for rounding to bytes.
        """
        if self.augment_on == "auto":
            return device == "cpu" and self.encoder.image_size >= 48
        return self.augment_on == "cpu"

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


def what_is_trained(config: TrainConfig) -> str:
    """A line for the user before anything starts."""
    arguments = "".join(f", {name} {value}" for name, value in config.encoder.kwargs.items() if value != "")
    return (
        f"{config.method.name} with {config.encoder.name} at {config.encoder.image_size} px{arguments}; "
        f"{config.steps:,} steps of {config.views_per_batch:,} views ({config.captions_per_batch:,} "
        f"{'images' if config.method.needs().by_image else 'captions'})"
    )


def presets() -> list[str]:
    """Names that `load_train_config` knows."""
    return preset_names("training")


def load_train_config(preset: str | Path, overrides: Mapping[str, Any] | None = None) -> TrainConfig:
    """A preset's or a YAML file's configuration with overrides, whose keys may be dotted (`optimizer.lr`).

    Overrides given as text are read as YAML. Raises InvalidInput naming what is wrong.
    """
    content = _read(str(preset))
    override(content, overrides or {})
    return parse_train_config(content)


def override(content: dict[str, Any], overrides: Mapping[str, Any]) -> None:
    """Puts values at dotted keys; text is read as YAML, but for that of `run`.

    Another method or encoder than the one that is there comes with its own defaults: what was there of the
    old one goes (`method=clip`, `encoder.name=vit_small_patch16_224`). Raises InvalidInput.
    """
    values = {
        key: parse_value(value, repr(value[:80]), key) if isinstance(value, str) and key != "run" else value
        for key, value in overrides.items()
    }
    if isinstance(values.get("method"), str):
        values["method.name"] = values.pop("method")
    for part in ("method", "encoder"):
        there, name = content.get(part), values.get(f"{part}.name")
        if isinstance(there, dict) and name is not None and there.get("name") != name:
            content[part] = {key: value for key, value in there.items() if key == "image_size"}
    for key in sorted(values, key=lambda key: key.count(".")):  # what is within another key comes after it
        put(content, key, copy.deepcopy(values[key]))  # else what is put within it would change the caller's


def parse_train_config(content: Mapping[str, Any] | str) -> TrainConfig:
    """The configuration in a mapping, or in JSON text. Raises InvalidInput naming what is wrong."""
    try:
        values = json.loads(content) if isinstance(content, str) else content
        return TrainConfig.model_validate(values)
    except ValidationError as error:
        raise InvalidInput("; ".join(_problems(error)), field="config") from error
    except json.JSONDecodeError as error:
        raise InvalidInput(f"not JSON: {error}", field="config") from error


def _problems(error: ValidationError, within: str = "") -> Iterator[str]:
    """Each problem as `dotted.key: what is wrong`; a method's are errors within the error of its key."""
    for problem in error.errors():
        key = ".".join(filter(None, [within, *map(str, problem["loc"])]))
        inner = problem.get("ctx", {}).get("error")
        if isinstance(inner, ValidationError):
            yield from _problems(inner, key)
        else:
            yield f"{key or 'config'}: {problem['msg']}"


def _read(preset: str) -> dict[str, Any]:
    if "/" not in preset and preset in presets():
        return _extended(read_preset("training", preset))
    if Path(preset).is_file():
        return _extended(read_mapping(Path(preset), "preset"))
    message = f"{preset!r} is neither a file nor one of the presets {', '.join(presets())}"
    raise InvalidInput(message, field="preset")


def _extended(content: dict[str, Any]) -> dict[str, Any]:
    """The preset with those values of the one it `extends` that it does not give itself."""
    base = content.pop("extends", None)
    if base is None:
        return content
    if base not in presets():
        raise InvalidInput(f"no preset {base!r}; there are {', '.join(presets())}", field="extends")
    whole = _extended(read_preset("training", base))
    override(whole, dotted(content))
    return whole


def _run_parts(url: str) -> tuple[str, str]:
    root, separator, name = url.rstrip("/").rpartition("/runs/")
    if not separator:
        raise ValueError(f"run: {url!r} is no run: want STORE/runs/NAME, such as file:///data/runs/first")
    return root, check_run(name)
