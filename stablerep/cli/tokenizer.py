"""The verb `tokenizer`: a vocabulary learnt from one's own captions, for the text tower of a training."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import typer

from stablerep.errors import InvalidInput
from stablerep.progress import console


def tokenizer(
    captions: Annotated[
        list[str],
        typer.Argument(help="Caption files, patterns of them, or datasets (STORE/datasets/NAME); several."),
    ],
    out: Annotated[Path, typer.Option("--out", help="File to write.")] = Path("tokenizer.json"),
    size: Annotated[int, typer.Option("--size", help="Tokens at most; CLIP's has 49,408.")] = 8192,
    column: Annotated[
        str, typer.Option("--column", help="Column or field with the caption; inferred by default.")
    ] = "",
) -> None:
    """Learns a byte-level BPE from captions, which CLIP and StableRep+ take in place of CLIP's own.

    A small vocabulary makes a small text tower, and one of another language than English needs its own. A
    run keeps a copy of its tokenizer.

    Examples:

        stablerep tokenizer captions.txt --size 4096

        stablerep tokenizer file:///data/datasets/shoes --out shoes.json

        stablerep train --set method=clip --set method.text.tokenizer=shoes.json ...
    """
    from stablerep.models.tokenizer import learn_tokenizer, load_tokenizer

    found = 0

    def counted() -> Iterator[str]:
        nonlocal found
        for text in _texts(captions, column):
            found += 1
            yield text

    content = learn_tokenizer(counted(), size)
    try:
        out.write_bytes(content)
    except OSError as error:
        raise InvalidInput(f"{out} cannot be written: {error.strerror}", field="out") from None
    made = load_tokenizer(str(out))
    console.print(f"{out}: {made.size:,} tokens, learnt from {found:,} captions")
    console.print(f"use it by --set method.text.tokenizer={out}")


def _texts(captions: list[str], column: str) -> Iterator[str]:
    from stablerep.captions import open_source, read_captions

    for name in captions:
        if "/datasets/" in name and ("://" in name or Path(name).is_dir()):
            from stablerep.data import GroupDataset

            yield from GroupDataset(name).captions
        else:
            yield from (caption.text for caption in read_captions(open_source(name), column=column or None))
