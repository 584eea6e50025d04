"""The package's own pass through a UNet gives what diffusers' gives, for every kind of UNet that it takes."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel, UNet2DModel
from torch import Tensor

from stablerep.generation.denoiser import Denoiser, can_denoise

CROSS_DOWN, DOWN = "CrossAttnDownBlock2D", "DownBlock2D"
CROSS_UP, UP = "CrossAttnUpBlock2D", "UpBlock2D"
SD: dict[str, Any] = {
    "block_out_channels": (16, 32, 32),
    "down_block_types": (CROSS_DOWN, CROSS_DOWN, DOWN),
    "up_block_types": (UP, CROSS_UP, CROSS_UP),
    "cross_attention_dim": 24,
    "norm_num_groups": 8,
    "attention_head_dim": 4,
    "sample_size": 8,
}
TEXT_FIRST_LATER = {
    "down_block_types": (DOWN, CROSS_DOWN, CROSS_DOWN),
    "up_block_types": (CROSS_UP, CROSS_UP, UP),
}
KINDS: dict[str, dict[str, Any]] = {
    "1": SD,
    "2": {**SD, "use_linear_projection": True, "attention_head_dim": (2, 4, 4), "upcast_attention": True},
    "xl": {
        **SD,
        **TEXT_FIRST_LATER,
        "use_linear_projection": True,
        "transformer_layers_per_block": (1, 2, 3),
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 20 + 6 * 8,
    },
    "text first in the second block": {**SD, **TEXT_FIRST_LATER, "layers_per_block": 1},
    "no middle": {**SD, "mid_block_type": None},
    "middle scaled": {**SD, "mid_block_scale_factor": 1.5},
    "other kernels": {**SD, "conv_in_kernel": 5, "conv_out_kernel": 1, "act_fn": "gelu", "norm_eps": 1e-3},
}


def unet_of(settings: dict[str, Any], dtype: torch.dtype = torch.float64) -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(**settings).to(dtype).eval()


def inputs(
    unet: Any, rows: int, side: tuple[int, int] = (8, 8)
) -> tuple[Tensor, Tensor, dict[str, Tensor] | None]:
    """Latents of `rows`; token states, and what XL adds, of twice as many."""
    chance = torch.Generator().manual_seed(1)
    latents = torch.randn(rows, 4, *side, generator=chance, dtype=unet.dtype)
    states = torch.randn(2 * rows, 5, 24, generator=chance, dtype=unet.dtype)
    if unet.config.addition_embed_type is None:
        return latents, states, None
    pooled = torch.randn(2 * rows, 20, generator=chance, dtype=unet.dtype)
    sizes = torch.randint(0, 500, (2 * rows, 6), generator=chance)
    return latents, states, {"text_embeds": pooled, "time_ids": sizes}


def halves(added: dict[str, Tensor] | None, rows: int) -> dict[str, Tensor] | None:
    return None if added is None else {name: each[rows:] for name, each in added.items()}


def distance(found: Tensor, wanted: Tensor) -> float:
    assert found.shape == wanted.shape
    return float((found - wanted).abs().max() / wanted.abs().max())


@pytest.mark.parametrize("side", [(8, 8), (12, 4), (10, 14)], ids=str)
@pytest.mark.parametrize("kind", KINDS)
@torch.inference_mode()
def test_the_output_is_that_of_diffusers(kind: str, side: tuple[int, int]) -> None:
    """With guidance's two halves, and without; (10, 14) is halved to sides that do not double back."""
    unet, steps = unet_of(KINDS[kind]), torch.tensor([981, 40, 1])
    denoiser = Denoiser(unet)
    x, states, added = inputs(unet, 3, side)
    times, texts = denoiser.times(steps, added), denoiser.texts(states)
    for number, step in enumerate(steps):
        wanted = unet(torch.cat([x, x]), step, states, added_cond_kwargs=added).sample
        assert distance(denoiser(x, times[number], texts), wanted) < 1e-12
        captions = halves(added, 3)
        wanted = unet(x, step, states[3:], added_cond_kwargs=captions).sample
        found = denoiser(x, denoiser.times(steps, captions)[number], denoiser.texts(states[3:]))
        assert distance(found, wanted) < 1e-12
        found = denoiser(x, times[number, -3:], [text[:, -3:] for text in texts])
        assert distance(found, wanted) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@torch.inference_mode()
def test_it_is_no_further_from_the_truth_than_diffusers(dtype: torch.dtype) -> None:
    exact, rounded = unet_of(SD), unet_of(SD, dtype)
    x, states, _ = inputs(exact, 3)
    step = torch.tensor([500])
    wanted = exact(torch.cat([x, x]), step[0], states).sample
    x, states = x.to(dtype), states.to(dtype)
    theirs = distance(rounded(torch.cat([x, x]), step[0], states).sample.double(), wanted)
    denoiser = Denoiser(rounded)
    ours = distance(denoiser(x, denoiser.times(step)[0], denoiser.texts(states)).double(), wanted)
    assert 0 < ours < 2 * theirs


@torch.inference_mode()
def test_fused_projections_and_channels_last() -> None:
    """As networks are before they are compiled."""
    unet = unet_of(SD)
    x, states, _ = inputs(unet, 2)
    step = torch.tensor([500])
    wanted = unet(torch.cat([x, x]), step[0], states).sample
    unet.fuse_qkv_projections()
    denoiser = Denoiser(unet).to(memory_format=torch.channels_last)
    found = denoiser(x, denoiser.times(step)[0], denoiser.texts(states))
    assert distance(found, wanted) < 1e-12
    assert all(
        each.is_contiguous(memory_format=torch.channels_last)
        for each in (*denoiser.parameters(), *denoiser.buffers())
        if each.ndim == 4
    )


@pytest.mark.parametrize(
    ("setting", "value"),
    [
        ("class_embed_type", "timestep"),
        ("time_cond_proj_dim", 8),
        ("resnet_time_scale_shift", "scale_shift"),
        ("only_cross_attention", True),
        ("dual_cross_attention", True),
        ("attention_type", "gated"),
        ("center_input_sample", True),
        ("dropout", 0.5),
        ("mid_block_type", "UNetMidBlock2D"),
        ("down_block_types", (CROSS_DOWN, CROSS_DOWN, "ResnetDownsampleBlock2D")),
        ("up_block_types", ("ResnetUpsampleBlock2D", CROSS_UP, CROSS_UP)),
        ("addition_embed_type", "text"),
        ("time_embedding_act_fn", "silu"),
        ("timestep_post_act", "silu"),
        ("encoder_hid_dim", 24),
    ],
)
def test_what_consists_of_other_parts_is_left_to_diffusers(setting: str, value: object) -> None:
    unet = unet_of(SD)
    assert can_denoise(unet)
    unet.register_to_config(**{setting: value})
    assert not can_denoise(unet)
    with pytest.raises(ValueError, match="no UNet of Stable Diffusion"):
        Denoiser(unet)


def test_other_networks_are_left_to_diffusers() -> None:
    blocks = {"down_block_types": (DOWN,) * 3, "up_block_types": (UP,) * 3, "mid_block_type": None}
    assert not can_denoise(unet_of({**SD, **blocks})), "it never meets the text"

    class Own(UNet2DConditionModel):  # type: ignore[misc]
        pass

    assert not can_denoise(Own(**SD))
    settings = {"block_out_channels": (16,), "down_block_types": (DOWN,), "up_block_types": (UP,)}
    assert not can_denoise(UNet2DModel(**settings, norm_num_groups=8))


@torch.inference_mode()
def test_what_is_the_same_for_both_halves_is_computed_once() -> None:
    unet = unet_of(SD)
    denoiser = Denoiser(unet)
    rows: dict[str, int] = {}

    def note(name: str) -> Any:
        return lambda module, given: rows.update({name: len(given[0])})

    first = unet.down_blocks[0]
    first.resnets[0].conv1.register_forward_pre_hook(note("residual"))
    first.attentions[0].transformer_blocks[0].attn1.to_q.register_forward_pre_hook(note("to itself"))
    first.attentions[0].transformer_blocks[0].attn2.to_q.register_forward_pre_hook(note("to text"))
    unet.conv_out.register_forward_pre_hook(note("last"))
    x, states, _ = inputs(unet, 3)
    denoiser(x, denoiser.times(torch.tensor([500]))[0], denoiser.texts(states))
    assert rows == {"residual": 3, "to itself": 3, "to text": 6, "last": 6}
