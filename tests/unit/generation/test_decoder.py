"""Decoding and upsampling on the small image give what diffusers' give."""

from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, AutoencoderTiny
from diffusers.models.upsampling import Upsample2D
from torch import Tensor

from stablerep.generation.decoder import Decoder, can_decode
from stablerep.generation.upsampler import Upsampler

SETTINGS: dict[str, Any] = {
    "block_out_channels": (8, 16, 16),
    "down_block_types": ("DownEncoderBlock2D",) * 3,
    "up_block_types": ("UpDecoderBlock2D",) * 3,
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 4,
}


def vae_of(**settings: Any) -> AutoencoderKL:
    torch.manual_seed(0)
    return AutoencoderKL(**{**SETTINGS, **settings}).double().eval()


def distance(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize("size", [None, (10, 14), (9, 14), (10, 13)], ids=str)
@torch.inference_mode()
def test_an_upsampler_gives_what_diffusers_gives(size: Any, layout: torch.memory_format) -> None:
    torch.manual_seed(0)
    theirs = Upsample2D(6, use_conv=True, out_channels=5).double().to(memory_format=layout)
    x = torch.randn(3, 6, 5, 7, dtype=torch.float64).contiguous(memory_format=layout)
    ours = Upsampler(theirs)
    assert distance(ours(x, size), theirs(x, size)) < 1e-13
    assert ours.weight.is_contiguous(memory_format=layout)
    assert ours.weight.numel() * x[0, 0].numel() < 0.5 * theirs.conv.weight.numel() * 4 * x[0, 0].numel()


def test_sums_of_weights_are_rounded_once() -> None:
    """1 + 2^-8 + 2^-8 is a bfloat16; added one by one in bfloat16, it would be 1."""
    theirs = Upsample2D(1, use_conv=True, out_channels=1)
    with torch.no_grad():
        theirs.conv.weight.zero_()
        theirs.conv.weight[0, 0, 1] = torch.tensor([0.0, 1.0, 2**-8])
        theirs.conv.weight[0, 0, 2] = torch.tensor([0.0, 0.0, 2**-8])
    folded = Upsampler(theirs.to(torch.bfloat16)).weight
    assert folded.dtype == torch.bfloat16
    assert float(folded.max()) == 1 + 2**-7


@pytest.mark.parametrize("settings", [{}, {"use_post_quant_conv": False}, {"mid_block_add_attention": False}])
@torch.inference_mode()
def test_a_decoder_gives_what_diffusers_gives(settings: dict[str, Any]) -> None:
    vae = vae_of(**settings)
    latents = torch.randn(2, 4, 5, 3, dtype=torch.float64)
    wanted = vae.decode(latents).sample
    assert distance(Decoder(vae)(latents), wanted) < 1e-12
    vae.fuse_qkv_projections()
    assert distance(Decoder(vae).to(memory_format=torch.channels_last)(latents), wanted) < 1e-12


def test_other_autoencoders_decode_by_themselves() -> None:
    sliced, tiled = vae_of(), vae_of()
    sliced.enable_slicing()
    tiled.enable_tiling()
    attending = vae_of(up_block_types=("AttnUpDecoderBlock2D",) * 3)
    for vae in (sliced, tiled, attending, AutoencoderTiny()):
        assert not can_decode(vae)
        with pytest.raises(ValueError, match="no autoencoder of Stable Diffusion"):
            Decoder(vae)
