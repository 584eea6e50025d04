"""What compares images with texts: CLIP's text tower from scratch, two projections, a learned scale.

The tower is that of the `open_clip_torch` package (MIT).
"""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

import math

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stablerep.errors import InvalidInput
from stablerep.models.tokenizer import CONTEXT

_LARGEST_SCALE = 100.0


class ImageTextTower(nn.Module):
    """Features of images, and tokens of captions, to embeddings that can be compared.

    Both projections are linear without bias; the scale is learned, from 1/0.07, at most 100 (CLIP).
    """

    def __init__(
        self, width: int, *, layers: int, text_width: int, heads: int, out: int, vocabulary: int
    ) -> None:
        super().__init__()
        from open_clip.transformer import QuickGELU, TextTransformer

        if text_width % heads:
            raise InvalidInput(f"{text_width} is no multiple of {heads} heads", field="method.text.width")
        self.tower = TextTransformer(
            context_length=CONTEXT,
            vocab_size=vocabulary,
            width=text_width,
            heads=heads,
            layers=layers,
            output_dim=out,
            act_layer=QuickGELU,
        )
        self.projection = nn.Linear(width, out, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)
        # Of one dimension: FSDP2 spreads no parameter without one.
        self.log_scale = nn.Parameter(torch.tensor([math.log(1 / 0.07)]))

    def images(self, features: Float[Tensor, "n width"]) -> Float[Tensor, "n out"]:
        return self.projection(features)

    def texts(self, tokens: Int[Tensor, "n longest"]) -> Float[Tensor, "n out"]:
        """Embeddings of texts, of their own length alone.

        Each token sees those before it, so what follows a text's end token changes nothing: most of the 77
        places of a caption would be computed for nothing.
        """
        tower, length = self.tower, tokens.shape[1]
        hidden = tower.token_embedding(tokens) + tower.positional_embedding[:length]
        hidden = tower.transformer(hidden, attn_mask=tower.attn_mask[:length, :length])
        ends = tokens.argmax(dim=1)  # the end token has the largest number
        return (
            tower.ln_final(hidden)[torch.arange(len(tokens), device=tokens.device), ends]
            @ tower.text_projection
        )

    def scale(self) -> Tensor:
        """What cosines are multiplied by."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """To be called after every step, as CLIP does."""
        self.log_scale.clamp_(0, math.log(_LARGEST_SCALE))
