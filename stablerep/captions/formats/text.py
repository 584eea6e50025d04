"""Captions in lines of plain text."""

from collections.abc import Iterator
from typing import BinaryIO

from stablerep.captions.caption import Flaw, clean
from stablerep.captions.formats.characters import lines
from stablerep.captions.formats.options import Options
from stablerep.errors import InvalidInput


def read_text(file: BinaryIO, options: Options) -> Iterator[str | Flaw]:
    """One caption a line."""
    if options.column is not None or options.header:
        field = "header" if options.column is None else "column"
        raise InvalidInput("plain text has no columns; leave it out or give a format", field=field)
    for line in lines(file, options):
        yield line if isinstance(line, Flaw) else clean(line.decode(errors="surrogateescape"))
