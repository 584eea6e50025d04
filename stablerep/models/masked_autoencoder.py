"""MAE around a ViT of timm's: encoding what is visible, painting what is hidden (He et al. 2022)."""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from timm.layers import build_sincos2d_pos_embed
from timm.models.vision_transformer import Block, VisionTransformer
from torch import Tensor, nn

from stablerep.config.encoder import EncoderSpec
from stablerep.errors import InvalidInput


def check_vit(encoder: Any, spec: EncoderSpec, method: str = "mae") -> None:
    """Raises InvalidInput for an encoder whose patches cannot be left out or masked."""
    if not isinstance(encoder, VisionTransformer) or encoder.num_prefix_tokens < 1:
        message = f"{method} wants a ViT with a class token, such as vit_base_patch16_224, not {spec.name}"
        raise InvalidInput(message, field="encoder.name")


def draw_mask(
    noise: Float[Tensor, "n patches"], ratio: float
) -> tuple[Int[Tensor, "n kept"], Bool[Tensor, "n patches"]]:
    """The patches with the smallest noise are kept, in order of their place; the others are hidden."""
    patches = noise.shape[1]
    count = max(1, int(patches * (1 - ratio)))
    kept = noise.argsort(dim=1)[:, :count].sort(dim=1).values
    hidden = torch.ones_like(noise, dtype=torch.bool).scatter(1, kept, False)
    return kept, hidden


def encode_visible(
    encoder: Any, images: Float[Tensor, "n 3 size size"], kept: Int[Tensor, "n kept"]
) -> Float[Tensor, "n tokens width"]:
    """The encoder's normalised tokens of the kept patches, prefix tokens first."""
    tokens = encoder.norm_pre(encoder._pos_embed(encoder.patch_embed(images)))
    prefix, patches = tokens[:, : encoder.num_prefix_tokens], tokens[:, encoder.num_prefix_tokens :]
    visible = patches.gather(1, kept[:, :, None].expand(-1, -1, patches.shape[2]))
    return encoder.norm(encoder.blocks(torch.cat([prefix, visible], dim=1)))


def encode_all(
    encoder: Any,
    images: Float[Tensor, "n 3 size size"],
    masked: Bool[Tensor, "n patches"] | None = None,
    token: Float[Tensor, " width"] | None = None,
) -> tuple[Float[Tensor, "n width"], Float[Tensor, "n patches width"]]:
    """The class token and the patches' tokens, normalised; masked patches go in as `token`."""
    patches = encoder.patch_embed(images)
    if masked is not None and token is not None:
        flat = patches.flatten(1, -2)
        flat = torch.where(masked[:, :, None], token.to(flat.dtype), flat)
        patches = flat.view_as(patches)
    tokens = encoder.norm(encoder.blocks(encoder.norm_pre(encoder._pos_embed(patches))))
    return tokens[:, 0], tokens[:, encoder.num_prefix_tokens :]


class MaskedDecoder(nn.Module):
    """A narrow ViT that paints every patch from the tokens of the visible ones."""

    positions: Tensor

    def __init__(self, encoder: Any, *, layers: int, width: int, heads: int) -> None:
        super().__init__()
        if width % heads or width % 4:
            message = f"{width} is no multiple of 4 and of {heads} heads"
            raise InvalidInput(message, field="method.decoder.width")
        grid, patch = encoder.patch_embed.grid_size, encoder.patch_embed.patch_size
        self.prefix = encoder.num_prefix_tokens
        self.embed = nn.Linear(encoder.num_features, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        nn.init.normal_(self.mask_token, std=0.02)
        positions = build_sincos2d_pos_embed(list(grid), width)
        self.register_buffer("positions", positions[None], persistent=False)
        self.blocks = nn.Sequential(
            *(Block(width, heads, mlp_ratio=4.0, qkv_bias=True) for _ in range(layers))
        )
        self.norm = nn.LayerNorm(width)
        self.paint = nn.Linear(width, patch[0] * patch[1] * 3)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(
        self, tokens: Float[Tensor, "n tokens width"], kept: Int[Tensor, "n kept"]
    ) -> Float[Tensor, "n patches pixels"]:
        """The pixels of every patch."""
        embedded = self.embed(tokens)
        prefix, visible = embedded[:, : self.prefix], embedded[:, self.prefix :]
        everywhere = self.mask_token.to(visible.dtype).expand(len(tokens), self.positions.shape[1], -1)
        patches = everywhere.scatter(1, kept[:, :, None].expand(-1, -1, visible.shape[2]), visible)
        painted = self.blocks(torch.cat([prefix, patches + self.positions.to(visible.dtype)], dim=1))
        return self.paint(self.norm(painted)[:, self.prefix :])
