"""The encoder: any timm model by name and keyword arguments, without a classifier."""

from typing import Any

import timm

from stablerep.config.encoder import EncoderSpec
from stablerep.errors import InvalidInput


def build_encoder(spec: EncoderSpec) -> Any:
    """The encoder with fresh weights, [n 3 size size] -> [n width]; its `num_features` says the width.

    Raises InvalidInput if timm knows no such model or does not take these arguments.
    """
    if not timm.is_model(spec.name):
        near = ", ".join(timm.list_models(f"*{spec.name.split('_')[0]}*")[:5])
        raise InvalidInput(
            f"timm has no model {spec.name!r}; near it: {near or 'nothing'}", field="encoder.name"
        )
    try:
        return timm.create_model(spec.name, pretrained=False, num_classes=0, **model_arguments(spec))
    except (TypeError, ValueError, AssertionError) as error:
        message = f"timm cannot build {spec.name} with {spec.kwargs}: {error}"
        raise InvalidInput(message, field="encoder.kwargs") from error


def model_arguments(spec: EncoderSpec) -> dict[str, Any]:
    """The keyword arguments for timm; a model built for one image size receives `img_size`."""
    published = timm.get_pretrained_cfg(spec.name)
    if published is not None and published.fixed_input_size:
        return {"img_size": spec.image_size, **spec.kwargs}
    return dict(spec.kwargs)
