"""MAE: a masked image is painted in (He et al. 2022), of the paper's section 4.1."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from stablerep.methods.interface import Batch, MethodConfig, Needs, Parts

if TYPE_CHECKING:
    from torch import Tensor, nn


class DecoderConfig(BaseModel):
    """The decoder that paints; discarded after training. The defaults are MAE's."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    layers: int = Field(default=8, ge=1)
    width: int = Field(default=512, ge=8)
    heads: int = Field(default=16, ge=1)


class Mae(MethodConfig):
    """`mask_ratio` of an image's patches are hidden; the loss is on those alone.

    The encoder must be a ViT of timm's. `normalise`: each patch's pixels are normalised before comparing.
    """

    name: Literal["mae"] = "mae"
    mask_ratio: float = Field(default=0.75, gt=0, lt=1)
    normalise: bool = True
    decoder: DecoderConfig = DecoderConfig()

    def needs(self) -> Needs:
        return Needs(by_image=True, noise=True)

    def build(self, parts: Parts) -> dict[str, nn.Module]:
        from stablerep.models.masked_autoencoder import MaskedDecoder, check_vit

        check_vit(parts.encoder, parts.spec)
        decoder = MaskedDecoder(parts.encoder, **self.decoder.model_dump())
        return {"encoder": parts.encoder, "decoder": decoder}

    def encode(self, modules: Any, batch: Batch) -> dict[str, Tensor]:
        from stablerep.models.masked_autoencoder import draw_mask, encode_visible
        from stablerep.objectives.reconstruction import reconstruction_loss

        kept, hidden = draw_mask(batch.noise, self.mask_ratio)
        tokens = encode_visible(modules.encoder, batch.views, kept)
        painted = modules.decoder(tokens, kept)
        each = reconstruction_loss(painted, batch.views, hidden, normalise=self.normalise)
        return {
            "features": tokens[:, 0].unflatten(0, (batch.number, -1)),
            "pixels": each.unflatten(0, (batch.number, -1)),
        }

    def losses(self, modules: Any, encoded: Mapping[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        return {"pixels": encoded["pixels"].mean()}
