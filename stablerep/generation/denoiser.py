"""A UNet of Stable Diffusion 1, 2 or XL, run without the work that a plain loop over its steps repeats.

The result is diffusers' own to rounding; what is saved, and why the result stays the same:

- keys and values of the caption, and what each step's time adds to a residual block, are made once a batch;
- with guidance both halves of a batch are one until they first meet the text, and are computed once so far;
- convolutions after upsampling run on the small image (`upsampler`);
- tokens stay as they lie between a transformer and its neighbours: 1x1 convolutions are matrix products.
"""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from stablerep.generation.attention import Attention
from stablerep.generation.upsampler import Upsampler

# Settings that the module tree itself tells; every other must have the value it has where none is given.
_READ_FROM_MODULES = {
    "sample_size", "in_channels", "out_channels", "flip_sin_to_cos", "freq_shift", "down_block_types",
    "up_block_types", "mid_block_type", "block_out_channels", "layers_per_block", "downsample_padding",
    "mid_block_scale_factor", "act_fn", "norm_num_groups", "norm_eps", "cross_attention_dim",
    "transformer_layers_per_block", "reverse_transformer_layers_per_block", "attention_head_dim",
    "num_attention_heads", "use_linear_projection", "addition_embed_type", "addition_time_embed_dim",
    "projection_class_embeddings_input_dim", "upcast_attention", "resnet_out_scale_factor",
    "time_embedding_dim", "conv_in_kernel", "conv_out_kernel",
}  # fmt: skip
_BLOCKS = {
    "CrossAttnDownBlock2D",
    "DownBlock2D",
    "CrossAttnUpBlock2D",
    "UpBlock2D",
    "UNetMidBlock2DCrossAttn",
}


def can_denoise(unet: Any) -> bool:
    """Whether the UNet consists of what Stable Diffusion 1, 2 and XL consist of, and of nothing else."""
    if type(unet) is not UNet2DConditionModel:
        return False
    config: dict[str, Any] = dict(unet.config)
    usual = {name: each.default for name, each in inspect.signature(type(unet).__init__).parameters.items()}
    others = {name for name, value in config.items() if name[0] != "_" and value != usual.get(name)}
    blocks = {*config["down_block_types"], *config["up_block_types"], config["mid_block_type"]} - {None}
    return (
        others <= _READ_FROM_MODULES
        and blocks <= _BLOCKS
        and any("CrossAttn" in block for block in blocks)
        and config["addition_embed_type"] in (None, "text_time")
    )


class Denoiser(nn.Module):
    """The UNet's forward pass of one step, and what is made of captions and timesteps before the first.

    Raises ValueError for a UNet that is not `can_denoise`.
    """

    def __init__(self, unet: Any) -> None:
        super().__init__()
        if not can_denoise(unet):
            raise ValueError(f"{type(unet).__name__} is no UNet of Stable Diffusion 1, 2 or XL")
        self.unet = unet
        self.attention = Attention()
        blocks = _in_order(unet)
        resnets = [resnet for block in blocks for resnet in block.resnets]
        self._time_layers = [(resnet.nonlinearity, resnet.time_emb_proj) for resnet in resnets]
        self._time_sizes = [resnet.time_emb_proj.out_features for resnet in resnets]
        self._text_layers = [
            block.attn2
            for each in blocks
            for attention in getattr(each, "attentions", ())
            for block in attention.transformer_blocks
        ]
        self._upsamplers = nn.ModuleList(
            Upsampler(upsampler) for block in unet.up_blocks for upsampler in block.upsamplers or ()
        )

    def times(self, timesteps: Tensor, added: dict[str, Tensor] | None = None) -> Tensor:
        """What each step's time adds to the residual blocks: [steps rows channels], channels of all blocks.

        `rows` is 1, or where captions (XL's `added_cond_kwargs`) are added to the time the captions' number.
        """
        unet = self.unet
        embedding = unet.time_embedding(unet.time_proj(timesteps).to(unet.dtype))[:, None]
        if added is not None:
            embedding = embedding + unet.get_aug_embed(embedding, None, added)
        return torch.cat([layer(act(embedding)) for act, layer in self._time_layers], dim=-1)

    def texts(self, states: Tensor) -> list[Tensor]:
        """Keys and values of token states [n l d] in each cross-attention, [2 n l c]."""
        return [torch.stack([layer.to_k(states), layer.to_v(states)]) for layer in self._text_layers]

    def forward(self, x: Tensor, time: Tensor, texts: Sequence[Tensor]) -> Tensor:
        """The UNet's output for latents x [n c h w]: [n c h w], or [2n c h w] for texts of twice as many.

        Args:
            x: latents. With texts of 2n rows, row n + i has the same latents as row i.
            time: a step of `times`, [1 or the texts' rows, channels].
            texts: of `texts`, of n or 2n rows.
        """
        unet, times, given = self.unet, iter(time.split(self._time_sizes, dim=1)), iter(texts)
        upsamplers = iter(self._upsamplers)
        x = unet.conv_in(x)
        if time.shape[0] > x.shape[0]:
            x = torch.cat([x, x])
        skips = [x]
        for block in unet.down_blocks:
            for resnet, attention in _pairs(block):
                x = _residual(resnet, x, next(times))
                x = _transformer(attention, x, given, self.attention) if attention is not None else x
                skips.append(x)
            for downsampler in block.downsamplers or ():
                x = downsampler(x)
                skips.append(x)
        if unet.mid_block is not None:
            first, *others = unet.mid_block.resnets
            x = _residual(first, x, next(times))
            for attention, resnet in zip(unet.mid_block.attentions, others, strict=True):
                x = _residual(resnet, _transformer(attention, x, given, self.attention), next(times))
        for block in unet.up_blocks:
            for resnet, attention in _pairs(block):
                skip = skips.pop()
                if skip.shape[0] < x.shape[0]:
                    skip = torch.cat([skip, skip])
                x = _residual(resnet, torch.cat([x, skip], dim=1), next(times))
                x = _transformer(attention, x, given, self.attention) if attention is not None else x
            for _ in block.upsamplers or ():
                x = next(upsamplers)(x, skips[-1].shape[2:])
        return unet.conv_out(unet.conv_act(unet.conv_norm_out(x)))


def _in_order(unet: Any) -> list[Any]:
    return [each for each in (*unet.down_blocks, unet.mid_block, *unet.up_blocks) if each is not None]


def _pairs(block: Any) -> Iterator[tuple[Any, Any]]:
    """A block's residual blocks, each with the transformer that follows it, or None."""
    attentions = getattr(block, "attentions", None) or [None] * len(block.resnets)
    return zip(block.resnets, attentions, strict=True)


def _residual(block: Any, x: Tensor, time: Tensor) -> Tensor:
    """A residual block whose time is projected already, [1 or n, c]."""
    inner = block.conv1(block.nonlinearity(block.norm1(x))) + time[:, :, None, None]
    inner = block.conv2(block.nonlinearity(block.norm2(inner)))
    if block.conv_shortcut is not None:
        if x.is_contiguous(memory_format=torch.channels_last):
            x = _pointwise(block.conv_shortcut, x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
        else:
            x = block.conv_shortcut(x)
    x = x + inner
    return x if block.output_scale_factor == 1 else x / block.output_scale_factor


def _transformer(transformer: Any, x: Tensor, texts: Iterator[Tensor], attention: Attention) -> Tensor:
    """Self-attention, cross-attention on the next texts, and feed-forward over pixels as tokens."""
    height = x.shape[2]
    tokens = _pointwise(transformer.proj_in, transformer.norm(x).permute(0, 2, 3, 1).flatten(1, 2))
    for block in transformer.transformer_blocks:
        tokens = tokens + _attend(
            block.attn1, attention, *_queries_keys_values(block.attn1, block.norm1(tokens))
        )
        keys, values = next(texts).unbind()
        if keys.shape[0] > tokens.shape[0]:
            tokens, x = torch.cat([tokens, tokens]), torch.cat([x, x])
        queries = block.attn2.to_q(block.norm2(tokens))
        tokens = tokens + _attend(block.attn2, attention, queries, keys, values)
        tokens = tokens + block.ff(block.norm3(tokens))
    pixels = _pointwise(transformer.proj_out, tokens).unflatten(1, (height, -1)).permute(0, 3, 1, 2)
    return x + pixels  # in this order: laid out as x is


def _queries_keys_values(layer: Any, tokens: Tensor) -> tuple[Tensor, ...]:
    if layer.fused_projections:
        return tuple(layer.to_qkv(tokens).chunk(3, dim=-1))
    return layer.to_q(tokens), layer.to_k(tokens), layer.to_v(tokens)


def _attend(layer: Any, attention: Attention, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attention in the layer's heads, [n q c] on [n k c], with its output's projection."""
    heads = [each.unflatten(-1, (layer.heads, -1)).transpose(1, 2) for each in (queries, keys, values)]
    attended = attention(heads[0], heads[1], heads[2])
    projected: Tensor = layer.to_out[0](attended.transpose(1, 2).flatten(2))
    return projected


def _pointwise(layer: Any, x: Tensor) -> Tensor:
    """A linear layer, or a 1x1 convolution, over the last dimension."""
    weight = layer.weight.flatten(1) if isinstance(layer, nn.Conv2d) else layer.weight
    return F.linear(x, weight, layer.bias)
