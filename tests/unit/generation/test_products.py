"""How many products a pass has at the true sizes, as torch counts them on the meta device."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from stablerep.generation.decoder import Decoder
from stablerep.generation.denoiser import Denoiser

SD15: dict[str, Any] = {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}
XL: dict[str, Any] = {
    "sample_size": 128,
    "block_out_channels": (320, 640, 1280),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
    "use_linear_projection": True,
    "transformer_layers_per_block": (1, 2, 10),
    "attention_head_dim": (5, 10, 20),
    "cross_attention_dim": 2048,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 256,
    "projection_class_embeddings_input_dim": 2816,
}


def products(work: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        work()
    return int(counter.get_total_flops())


@pytest.mark.parametrize(("settings", "wanted"), [(SD15, 0.93), (XL, 0.97)], ids=["1.5", "XL"])
def test_a_pass_of_the_unet(settings: dict[str, Any], wanted: float) -> None:
    with torch.device("meta"):
        unet = UNet2DConditionModel(**settings)
        side = settings["sample_size"]
        x, states = torch.empty(4, 4, side, side), torch.empty(8, 77, settings["cross_attention_dim"])
        when, added = torch.tensor([500]), None
        if settings is XL:
            added = {"text_embeds": torch.empty(8, 1280), "time_ids": torch.empty(8, 6)}
        denoiser = Denoiser(unet)
        with torch.inference_mode():
            times, texts = denoiser.times(when, added), denoiser.texts(states)
        theirs = products(lambda: unet(torch.cat([x, x]), when[0], states, added_cond_kwargs=added))
        ours = products(lambda: denoiser(x, times[0], texts))
    assert ours / theirs == pytest.approx(wanted, abs=0.005)


def test_decoding_of_512_pixels() -> None:
    with torch.device("meta"):
        vae = AutoencoderKL(
            block_out_channels=(128, 256, 512, 512),
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            layers_per_block=2,
        )
        latents = torch.empty(1, 4, 64, 64)
        decoder = Decoder(vae)
        ratio = products(lambda: decoder(latents)) / products(lambda: vae.decode(latents))
    assert ratio == pytest.approx(0.85, abs=0.005)
