"""Which encoder a run trains: a timm model by name, its arguments, and the size of its images."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field


class EncoderSpec(BaseModel):
    """What timm needs to build the encoder again: `timm.create_model(name, num_classes=0, **kwargs)`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = "vit_base_patch16_224"
    kwargs: dict[str, Any] = Field(default_factory=dict)
    image_size: int = Field(default=224, ge=8, le=1024)
