"""An autoencoder's decoder, with the convolutions after its upsampling run on the small image."""

from typing import Any

from diffusers import AutoencoderKL
from torch import Tensor, nn

from stablerep.generation.upsampler import Upsampler


def can_decode(vae: Any) -> bool:
    """Whether the autoencoder is one of Stable Diffusion 1, 2 or XL, decoding whole images at once."""
    return (
        type(vae) is AutoencoderKL
        and set(vae.config.up_block_types) == {"UpDecoderBlock2D"}
        and not vae.use_slicing
        and not vae.use_tiling
    )


class Decoder(nn.Module):
    """Latents [n c h w] -> images [n 3 H W], about -1 to 1.

    Raises ValueError for an autoencoder that is not `can_decode`.
    """

    def __init__(self, vae: Any) -> None:
        super().__init__()
        if not can_decode(vae):
            raise ValueError(f"{type(vae).__name__} is no autoencoder of Stable Diffusion 1, 2 or XL")
        self.vae = vae
        self._upsamplers = nn.ModuleList(
            Upsampler(upsampler) for block in vae.decoder.up_blocks for upsampler in block.upsamplers or ()
        )

    def forward(self, latents: Tensor) -> Tensor:
        decoder, upsamplers = self.vae.decoder, iter(self._upsamplers)
        if self.vae.post_quant_conv is not None:
            latents = self.vae.post_quant_conv(latents)
        x = decoder.mid_block(decoder.conv_in(latents))
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                x = resnet(x, None)
            for _ in block.upsamplers or ():
                x = next(upsamplers)(x)
        images: Tensor = decoder.conv_out(decoder.conv_act(decoder.conv_norm_out(x)))
        return images
