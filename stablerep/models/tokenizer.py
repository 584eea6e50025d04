"""Tokens of texts for a text tower: CLIP's vocabulary, or one that was learnt from one's own captions."""

# ruff: noqa: F722 (the strings are shapes, for jaxtyping)

from collections.abc import Callable, Iterable, Sequence
from functools import cache
from pathlib import Path

import torch
from jaxtyping import Int
from torch import Tensor

from stablerep.errors import InvalidInput, NotFound
from stablerep.storage import open_store

CONTEXT = 77
SMALLEST = 256 + 2
"""Every byte, so that any text can be told, and the two ends."""
_CLIP = 49_408
_ENDS = ("<|startoftext|>", "<|endoftext|>")
"""CLIP's names. They have the two largest numbers: the tower finds a text's end by that."""


class Tokenizer:
    """Texts to numbers below `size`, between a start and an end token."""

    def __init__(self, encode: Callable[[list[str]], list[list[int]]], size: int) -> None:
        self._encode, self.size = encode, size

    def __call__(self, texts: Sequence[str]) -> tuple[Int[Tensor, "n longest"], int]:
        """Tokens of the texts, as many as the longest has, at most 77; and how many texts were cut."""
        # A text that spells an end out is not to end there.
        encoded = [[n for n in numbers if n < self.size - 2] for numbers in self._encode(list(texts))]
        longest = min(CONTEXT, max(map(len, encoded), default=0) + 2)
        tokens = torch.zeros(len(encoded), longest, dtype=torch.long)
        for row, numbers in zip(tokens, encoded, strict=True):
            whole = [self.size - 2, *numbers[: CONTEXT - 2], self.size - 1]
            row[: len(whole)] = torch.tensor(whole)
        return tokens, sum(len(numbers) > CONTEXT - 2 for numbers in encoded)


def load_tokenizer(where: str = "") -> Tokenizer:
    """CLIP's tokenizer (open_clip ships its vocabulary), or the one in a file or at a URL in a store.

    Raises NotFound if there is none, InvalidInput if it is no tokenizer of `learn_tokenizer`'s kind.
    """
    return _clip() if not where else _parse(read_tokenizer(where), where)


def read_tokenizer(where: str) -> bytes:
    """The JSON of a tokenizer in a file or at a URL. Raises NotFound."""
    if "://" in where:
        root, _, name = where.rpartition("/")
        return open_store(root).get(name)
    try:
        return Path(where).read_bytes()
    except (FileNotFoundError, IsADirectoryError):
        raise NotFound(f"no tokenizer {where}; `stablerep tokenizer` makes one") from None


def learn_tokenizer(texts: Iterable[str], size: int) -> bytes:
    """The JSON of a byte-level BPE with at most `size` tokens, learnt from the texts, which lose their case.

    Raises InvalidInput for fewer tokens than there are bytes.
    """
    from tokenizers import AddedToken, decoders, models, normalizers, pre_tokenizers, trainers
    from tokenizers import Tokenizer as Bpe

    if size < SMALLEST:
        raise InvalidInput(
            f"{size} tokens are fewer than {SMALLEST}, of which any text is made", field="size"
        )
    bpe = Bpe(models.BPE())
    bpe.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    bpe.decoder = decoders.ByteLevel()
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bpe.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=size - len(_ENDS), initial_alphabet=alphabet, show_progress=False),
    )
    bpe.add_special_tokens([AddedToken(end, special=True) for end in _ENDS])
    return bpe.to_str(pretty=True).encode()


@cache
def _clip() -> Tokenizer:
    from open_clip.tokenizer import SimpleTokenizer

    tokenizer = SimpleTokenizer()
    return Tokenizer(lambda texts: [tokenizer.encode(text) for text in texts], _CLIP)


@cache
def _parse(content: bytes, where: str) -> Tokenizer:
    from tokenizers import Tokenizer as Bpe

    try:
        bpe = Bpe.from_str(content.decode())
    except Exception as error:  # noqa: BLE001  tokenizers raises nothing narrower
        raise InvalidInput(f"{where} is no tokenizer: {str(error)[:200]}", field="tokenizer") from None
    size = bpe.get_vocab_size()
    if [bpe.token_to_id(end) for end in _ENDS] != [size - 2, size - 1]:
        message = f"{where}: the last two of its {size:,} tokens are not {' and '.join(_ENDS)}"
        raise InvalidInput(message, field="tokenizer")
    return Tokenizer(
        lambda texts: [one.ids for one in bpe.encode_batch(texts, add_special_tokens=False)], size
    )
