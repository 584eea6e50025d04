"""What compares images with texts: CLIP's text tower from scratch, two projections, a learned scale.

Tower and tokenizer are those of the `open_clip_torch` package (MIT), which ships the vocabulary of CLIP.
"""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from stablerep.errors import InvalidInput

CONTEXT = 77
VOCABULARY = 49_408
_START, _END = VOCABULARY - 2, VOCABULARY - 1
_LARGEST_SCALE = 100.0


class ImageTextTower(nn.Module):
    """Features of images, and tokens of captions, to embeddings that can be compared.

    Both projections are linear without bias; the scale is learned, from 1/0.07, at most 100 (CLIP).
    """

    def __init__(self, width: int, *, layers: int, text_width: int, heads: int, out: int) -> None:
        super().__init__()
        from open_clip.transformer import QuickGELU, TextTransformer

        if text_width % heads:
            raise InvalidInput(f"{text_width} is no multiple of {heads} heads", field="method.text.width")
        self.tower = TextTransformer(
            context_length=CONTEXT,
            vocab_size=VOCABULARY,
            width=text_width,
            heads=heads,
            layers=layers,
            output_dim=out,
            pool_type="argmax",  # the end token has the largest number
            act_layer=QuickGELU,
        )
        self.projection = nn.Linear(width, out, bias=False)
        nn.init.normal_(self.projection.weight, std=width**-0.5)
        self.log_scale = nn.Parameter(torch.tensor(math.log(1 / 0.07)))

    def images(self, features: Float[Tensor, "n width"]) -> Float[Tensor, "n out"]:
        return self.projection(features)

    def texts(self, tokens: Int[Tensor, "n 77"]) -> Float[Tensor, "n out"]:
        return self.tower(tokens)

    def scale(self) -> Tensor:
        """What cosines are multiplied by."""
        return self.log_scale.exp()

    @torch.no_grad()
    def clamp_scale(self) -> None:
        """To be called after every step, as CLIP does."""
        self.log_scale.clamp_(0, math.log(_LARGEST_SCALE))


def tokenize(texts: Sequence[str]) -> tuple[Int[Tensor, "n 77"], int]:
    """CLIP's tokens of the texts, and how many texts were cut to fit."""
    encoded = [_tokenizer().encode(text) for text in texts]
    tokens = torch.zeros(len(encoded), CONTEXT, dtype=torch.long)
    for row, numbers in zip(tokens, encoded, strict=True):
        whole = [_START, *numbers[: CONTEXT - 2], _END]
        row[: len(whole)] = torch.tensor(whole)
    return tokens, sum(len(numbers) > CONTEXT - 2 for numbers in encoded)


@cache
def _tokenizer() -> Any:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer()
