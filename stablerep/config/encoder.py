"""Which encoder a run trains: a timm model by name, its arguments, and the size of its images."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator

_OF_LOADING = frozenset(
    {
        "pretrained",
        "pretrained_cfg",
        "pretrained_cfg_overlay",
        "pretrained_strict",
        "checkpoint_path",
        "cache_dir",
    }
)
"""Arguments of `timm.create_model` that read files or hosts: a run may not name those of its machine."""


class EncoderSpec(BaseModel):
    """What timm needs to build the encoder again: `timm.create_model(name, num_classes=0, **kwargs)`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "vit_base_patch16_224"
    kwargs: dict[str, Any] = Field(default_factory=dict)
    image_size: int = Field(default=224, ge=8, le=1024)

    @field_validator("kwargs")
    @classmethod
    def _check_kwargs(cls, kwargs: dict[str, Any]) -> dict[str, Any]:
        if loading := sorted(_OF_LOADING & set(kwargs)):
            raise ValueError(f"{loading[0]} is no argument of a model: encoders start with fresh weights")
        return kwargs
