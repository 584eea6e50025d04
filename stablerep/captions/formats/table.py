"""Captions in a column of rows: CSV and TSV, with any of the usual separators, with a header or without.

The TSV of CC3M is `caption<TAB>url` and that of CC12M `url<TAB>caption`; both have no header and nothing in
them is quoted. Rows are parsed line by line: a quote that is never closed costs its own row, not those after.
"""

import csv
import re
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import BinaryIO

from stablerep.captions.caption import MAX_CHARACTERS, Flaw, clean
from stablerep.captions.formats.characters import lines
from stablerep.captions.formats.columns import find_column, shown, usual_column
from stablerep.captions.formats.options import Options
from stablerep.errors import InvalidInput

SAMPLE_LINES = 50
SEPARATORS = (",", "\t", ";", "|")
MAX_RECORD_LINES = 256
MAX_RECORD_CHARACTERS = 1 << 18
"""Of a record whose quoted cells hold line ends."""
URL = re.compile(r"\s*(?:https?|ftp)://\S+\s*|\s*www\.\S+\s*", re.IGNORECASE)
_HEADER_WORD = re.compile(r"[^\W\d][\w-]{0,29}")

Row = list[str] | Flaw


@dataclass(frozen=True)
class _Layout:
    """How a file's lines become rows, and where in a row the caption is; `width` 0: not known yet."""

    separator: str
    quoted: bool
    width: int = 0
    index: int = 0
    header: tuple[str, ...] | None = None


class _Lines(Iterator[str | Flaw]):
    """Decoded lines, some of which may be put back."""

    def __init__(self, file_lines: Iterator[str | Flaw]) -> None:
        self._rest = file_lines
        self._waiting: deque[str | Flaw] = deque()

    def __next__(self) -> str | Flaw:
        return self._waiting.popleft() if self._waiting else next(self._rest)

    def put_back(self, taken: list[str | Flaw]) -> None:
        self._waiting.extendleft(reversed(taken))


def read_csv(file: BinaryIO, options: Options) -> Iterator[str | Flaw]:
    """Rows as Python and spreadsheets write them; quoted cells may contain line ends."""
    return _captions(file, options, ",")


def read_tsv(file: BinaryIO, options: Options) -> Iterator[str | Flaw]:
    """Rows of cells between tabs, nothing quoted: captions of CC3M and CC12M contain lone quotes."""
    return _captions(file, options, "\t")


def _captions(file: BinaryIO, options: Options, usual: str) -> Iterator[str | Flaw]:
    # `csv` fails at a lone carriage return; to a caption it is white space.
    found = _Lines(
        line if isinstance(line, Flaw) else line.decode(errors="surrogateescape").replace("\r", " ")
        for line in lines(file, options)
    )
    sample = list(islice(found, SAMPLE_LINES))
    layout = _find_layout(sample, options, usual)
    found.put_back(sample)
    options.separator = layout.separator if layout.width != 1 else ""
    options.found_header = layout.header is not None
    options.found_column = layout.header[layout.index].strip() if layout.header else str(layout.index)
    rows = _rows(found, layout)
    wanted = layout.header
    for row in rows:
        if wanted is not None and not isinstance(row, Flaw) and tuple(row) == wanted:
            wanted = None
            continue
        yield _caption(row, layout)


def _caption(row: Row, layout: _Layout) -> str | Flaw:
    if isinstance(row, Flaw):
        return row
    if not any(cell.strip() for cell in row):
        return Flaw.EMPTY
    if layout.header is not None and tuple(row) == layout.header:
        return Flaw.MALFORMED  # of a file appended to another
    if layout.index >= len(row):
        return Flaw.MISSING_COLUMN
    text = row[layout.index]
    if len(row) > layout.width and any(cell.strip() for cell in row[layout.width :]):
        if layout.index != layout.width - 1:
            return Flaw.MALFORMED
        text = layout.separator.join(row[layout.index :])  # a separator that nobody quoted
    return clean(text)


def _rows(found: _Lines, layout: _Layout) -> Iterator[Row]:
    for line in found:
        if isinstance(line, Flaw):
            yield line
        elif not layout.quoted or '"' not in line:
            yield line.split(layout.separator)
        else:
            yield _quoted_row(line, found, layout)


def _quoted_row(line: str, found: _Lines, layout: _Layout) -> Row:
    """The row that starts with this line; more lines are taken where a quote is open at its end."""
    row, is_open = _parse(line, layout)
    if not is_open:
        return row if row is not None else _odd_row(line, layout)
    taken: list[str | Flaw] = []
    size = 0
    while is_open and len(taken) < MAX_RECORD_LINES and size < MAX_RECORD_CHARACTERS:
        if (more := next(found, None)) is None:
            break
        taken.append(more)
        if isinstance(more, Flaw):
            break
        size += len(more)
        if more.count('"') % 2:  # others leave the quote as open as it was
            row, is_open = _parse("\n".join([line, *map(str, taken)]), layout)
    if row is not None and not _swallowed(row, taken, layout):
        return row
    found.put_back(taken)
    return Flaw.MALFORMED


def _parse(text: str, layout: _Layout) -> tuple[list[str] | None, bool]:
    """The only row of a text, None where its quotes are wrong; and whether a quote is still open."""
    try:
        return next(csv.reader([text], delimiter=layout.separator, strict=True)), False
    except csv.Error as error:
        return None, "unexpected end" in str(error)


def _odd_row(line: str, layout: _Layout) -> Row:
    """A line whose quotes are not as they should be: escaped by backslashes, or part of the text."""
    if '\\"' in line:
        try:
            return next(csv.reader([line], delimiter=layout.separator, escapechar="\\", strict=True))
        except csv.Error:
            pass
    cells = line.split(layout.separator)
    return cells if len(cells) == layout.width or not layout.width else Flaw.MALFORMED


def _swallowed(row: list[str], taken: list[str | Flaw], layout: _Layout) -> bool:
    """Whether the cell over several lines is no cell: two stray quotes with other records between them."""
    is_long = any(len(cell) > MAX_CHARACTERS for cell in row)
    if layout.width == 1:
        return is_long
    between = [line.split(layout.separator) for line in taken[:-1] if isinstance(line, str)]
    alike = [cells for cells in between if len(cells) == (layout.width or len(row))]
    if 0 < layout.width != len(row) or (is_long and 2 * len(alike) > len(between)):
        return True
    beside = [cell for cells in alike for n, cell in enumerate(cells) if n != layout.index]
    numbered = all(cell.strip().isdecimal() for cell in beside)
    return len(alike) == len(between) > 2 and (numbered or _has_urls(alike))


def _find_layout(sample: list[str | Flaw], options: Options, usual: str) -> _Layout:
    found = (_table(sample, separator, usual) for separator in SEPARATORS)
    tables = [table for table in found if table[1]]
    tables.sort(key=lambda table: table[0].separator != usual)
    if not tables:
        return _Layout(usual, False, 1)
    named = [table for table in tables if _names_captions(table[1][0], options)]
    split = [table for table in named if len(table[1][0]) > 1]
    even = [table for table in tables if len(table[1][0]) > 1 and len(set(map(len, table[1]))) == 1]
    if even and even[0] is not tables[0] and len(even[0][1]) == 1:
        even = []  # one row says little of another separator
    layout, rows = (split or named or even or tables)[0]
    return _with_column(layout, rows, options)


def _table(sample: list[str | Flaw], separator: str, usual: str) -> tuple[_Layout, list[list[str]]]:
    """A sample's rows with one separator."""
    layout = _Layout(separator, separator != "\t" or usual != "\t")
    rows = _sample_rows(sample, layout)
    names = [cell.strip('" ') for cell in rows[0]] if rows and rows[0][0].startswith('"') else []
    if usual_column(names) is not None and not layout.quoted:
        layout = _Layout(separator, True)  # a TSV whose writer quoted its cells
        rows = _sample_rows(sample, layout)
    return layout, rows


def _sample_rows(sample: list[str | Flaw], layout: _Layout) -> list[list[str]]:
    rows = _rows(_Lines(iter(sample)), layout)
    return [row for row in rows if not isinstance(row, Flaw) and any(cell.strip() for cell in row)]


def _names_captions(first: list[str], options: Options) -> bool:
    cells = [cell.strip() for cell in first]
    named = options.column is not None and options.column in cells
    return options.header is not False and (named or usual_column(cells) is not None)


def _with_column(layout: _Layout, rows: list[list[str]], options: Options) -> _Layout:
    """The layout with the caption's column, the number of columns, and the header row if there is one."""
    index, has_header = _caption_column(rows, options)
    counts = Counter(map(len, rows))
    width = len(rows[0]) if has_header else max(counts, key=lambda count: (counts[count], count))
    guessed = options.column is None or (index == 0 and 1 in counts)  # a separator may be a comma of the text
    if not has_header and guessed and width > 1 and len(counts) > 1 and not _has_urls(rows):
        raise _unknown_column(rows[0], "rows have different numbers of cells")
    header = tuple(rows[0]) if has_header else None
    return _Layout(layout.separator, layout.quoted, max(width, index + 1), index, header)


def _caption_column(rows: list[list[str]], options: Options) -> tuple[int, bool]:
    """Which column holds the captions, and whether the first row is a header."""
    first = [cell.strip() for cell in rows[0]]
    usual = usual_column(first) if options.header is not False else None
    column = options.column
    if column is not None and column.isdecimal():
        return int(column), options.header if options.header is not None else usual is not None
    if column is not None:
        if options.header is False:
            raise InvalidInput("without a header, give the column's number from 0", field="column")
        return first.index(find_column(first, column)), True
    if usual is not None:
        return first.index(find_column(first, usual)), True
    if len(first) == 1:
        if options.header is None and _may_be_header(rows):
            raise InvalidInput(
                f"the first row, {first[0]!r}, may be a header or a caption; "
                "say which: --header or --no-header (header=True or False)",
                field="header",
            )
        return 0, bool(options.header)
    if len(first) == 2 and options.header is not True:
        return _beside_urls(rows, options)
    raise _unknown_column(first)


def _may_be_header(rows: list[list[str]]) -> bool:
    """A single word above rows of several words each."""
    words = [len(" ".join(row).split()) for row in rows[1:]]
    return bool(words) and min(words) > 1 and _HEADER_WORD.fullmatch(rows[0][0].strip()) is not None


def _has_urls(rows: list[list[str]]) -> bool:
    return any(URL.fullmatch(cell) for row in rows for cell in row)


def _beside_urls(rows: list[list[str]], options: Options) -> tuple[int, bool]:
    """Of two columns, the one that holds no URLs. A first row without a URL, alone among all, is a header."""
    urls = [[bool(URL.fullmatch(cell)) for cell in row] for row in rows if len(row) == 2]
    counts = [sum(row[0] for row in urls), sum(row[1] for row in urls)]
    if counts[0] == counts[1]:
        raise _unknown_column(rows[0])
    is_header = len(urls) > 1 and not any(urls[0]) and all(any(row) for row in urls[1:])
    return (0 if counts[1] > counts[0] else 1), is_header and options.header is None


def _unknown_column(cells: list[str], why: str = "") -> InvalidInput:
    return InvalidInput(
        f"cannot tell which column holds the captions{': ' if why else ''}{why}; name it, give its number "
        "from 0, add a header row, or give the format text if a line is a caption; "
        f"the first row is {shown(cells)}",
        field="column",
    )
