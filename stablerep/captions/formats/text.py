"""Captions in lines of text: plain text, CSV, and TSV.

The TSV of CC3M is `caption<TAB>url` and that of CC12M `url<TAB>caption`; both have no header.
"""

import csv
import re
from collections.abc import Iterator
from itertools import chain, islice
from typing import BinaryIO

from stablerep.captions.caption import Flaw, clean
from stablerep.captions.formats.columns import find_column, usual_column
from stablerep.errors import InvalidInput

MAX_LINE_BYTES = 1 << 20
MAX_ROW_BYTES = 4 << 20
SAMPLE_ROWS = 20
URL = re.compile(r"\s*(?:https?|ftp)://\S+\s*|\s*www\.\S+\s*", re.IGNORECASE)
UTF16_MARKS = (b"\xff\xfe", b"\xfe\xff")
UTF8_MARK = b"\xef\xbb\xbf"

Row = list[str] | Flaw


def lines(file: BinaryIO) -> Iterator[bytes | Flaw]:
    """Lines without their ends; those over a mebibyte are passed over. Raises InvalidInput for UTF-16."""
    for line in _utf8_lines(file):
        if line.endswith(b"\n") or len(line) < MAX_LINE_BYTES:
            yield line.rstrip(b"\r\n")
            continue
        while (rest := file.readline(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
            pass
        yield Flaw.TOO_LONG


def read_text(file: BinaryIO, column: str | None) -> Iterator[str | Flaw]:
    """One caption a line."""
    if column is not None:
        raise InvalidInput("plain text has no columns; leave it out or give a format", field="column")
    for line in lines(file):
        yield line if isinstance(line, Flaw) else clean(_decoded(line))


def read_tsv(file: BinaryIO, column: str | None) -> Iterator[str | Flaw]:
    """Tab-separated, nothing quoted: captions of CC3M and CC12M contain lone quotes."""
    rows = (line if isinstance(line, Flaw) else _decoded(line).split("\t") for line in lines(file))
    return _captions(rows, column)


def read_csv(file: BinaryIO, column: str | None) -> Iterator[str | Flaw]:
    """Comma-separated as Python and spreadsheets write it; quoted cells may contain line ends."""
    return _captions(_csv_rows(file), column)


def _utf8_lines(file: BinaryIO) -> Iterator[bytes]:
    line = file.readline(MAX_LINE_BYTES)
    if line.startswith(UTF16_MARKS):
        raise InvalidInput("the file is UTF-16; convert it: iconv -f UTF-16 -t UTF-8", field="source")
    line = line.removeprefix(UTF8_MARK) or file.readline(MAX_LINE_BYTES)
    while line:
        yield line
        line = file.readline(MAX_LINE_BYTES)


def _decoded(line: bytes) -> str:
    return line.decode(errors="surrogateescape")


def _csv_rows(file: BinaryIO) -> Iterator[Row]:
    fed = 0  # bytes since the last whole row

    def feed() -> Iterator[str]:
        nonlocal fed
        for line in _utf8_lines(file):
            fed += len(line)
            if fed > MAX_ROW_BYTES:
                raise InvalidInput("a row does not end; is a quote left open?", field="source")
            # `csv` ends a row at a lone carriage return only to fail there; to a caption it is white space.
            yield _decoded(line).replace("\r\n", "\n").replace("\r", " ")

    reader = csv.reader(feed())
    while True:
        try:
            row: Row = next(reader)
        except StopIteration:
            return
        except csv.Error:
            row = Flaw.MALFORMED
        fed = 0
        yield row


def _captions(rows: Iterator[Row], column: str | None) -> Iterator[str | Flaw]:
    sample = list(islice(rows, SAMPLE_ROWS))
    index, header = _caption_column([row for row in sample if not isinstance(row, Flaw) and any(row)], column)
    for row in chain(sample, rows):
        if header and row == header:
            header = []  # its later repetitions are records
            continue
        yield _caption(row, index)


def _caption(row: Row, index: int) -> str | Flaw:
    if isinstance(row, Flaw):
        return row
    if not any(cell.strip() for cell in row):
        return Flaw.EMPTY
    if any("\udc80" <= character <= "\udcff" for cell in row for character in cell):
        return Flaw.BAD_ENCODING
    return clean(row[index]) if index < len(row) else Flaw.MISSING_COLUMN


def _caption_column(rows: list[list[str]], column: str | None) -> tuple[int, list[str]]:
    """Which column holds the captions, and the header row ([] where there is none)."""
    if not rows:
        return 0, []
    first = [cell.strip() for cell in rows[0]]
    usual = usual_column(first)
    if column is not None and column.isdecimal():
        return int(column), rows[0] if usual is not None else []
    if column is not None:
        return first.index(find_column(first, column)), rows[0]
    if usual is not None:
        return first.index(usual), rows[0]
    if len(first) == 1:
        return 0, []
    if len(first) == 2:
        return _beside_urls(rows)
    raise _unknown_column(first)


def _beside_urls(rows: list[list[str]]) -> tuple[int, list[str]]:
    """Of two columns, the one that holds no URLs. A first row without a URL, alone among all, is a header."""
    urls = [[bool(URL.fullmatch(cell)) for cell in row] for row in rows if len(row) == 2]
    counts = [sum(row[0] for row in urls), sum(row[1] for row in urls)]
    if counts[0] == counts[1]:
        raise _unknown_column(rows[0])
    is_header = len(urls) > 1 and not any(urls[0]) and all(any(row) for row in urls[1:])
    return (0 if counts[1] > counts[0] else 1), rows[0] if is_header else []


def _unknown_column(cells: list[str]) -> InvalidInput:
    shown = ", ".join(repr(cell[:40]) for cell in cells[:10])
    return InvalidInput(
        f"cannot tell which column holds the captions; name it or give its number from 0; "
        f"the first row is {shown}",
        field="column",
    )
