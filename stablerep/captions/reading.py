"""Reading a caption source: format by its name, every record counted, captions streamed."""

import re
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import BinaryIO

from stablerep.captions.caption import Caption, CaptionReport, Flaw
from stablerep.captions.formats.json import read_annotations, read_jsonl
from stablerep.captions.formats.options import Options
from stablerep.captions.formats.parquet import read_parquet
from stablerep.captions.formats.table import read_csv, read_tsv
from stablerep.captions.formats.text import read_text
from stablerep.captions.formats.webdataset import read_samples
from stablerep.captions.source import Source, decompressed
from stablerep.errors import InvalidInput

Reader = Callable[[BinaryIO, Options], Iterator[str | Flaw]]
READERS: dict[str, Reader] = {
    "text": read_text,
    "csv": read_csv,
    "tsv": read_tsv,
    "jsonl": read_jsonl,
    "redcaps": read_annotations,
    "parquet": read_parquet,
    "webdataset": read_samples,
}
FORMATS = tuple(READERS)
EXTENSIONS = {
    "txt": "text",
    "text": "text",
    "csv": "csv",
    "tsv": "tsv",
    "jsonl": "jsonl",
    "ndjson": "jsonl",
    "json": "redcaps",
    "parquet": "parquet",
    "tar": "webdataset",
}


def read_captions(
    source: Source,
    *,
    format: str | None = None,
    column: str | None = None,
    header: bool | None = None,
    limit: int | None = None,
    report: CaptionReport | None = None,
) -> Iterator[Caption]:
    """The captions of a source in order, at most `limit`, each with the index of its record as its id.

    Args:
        format: one of `FORMATS`; None or "": inferred from the source's name.
        column: name of the column or field, or (csv, tsv) its number from 0; None or "": by the usual names.
        header: (csv, tsv) whether the first row is a header; None: inferred from its cells.
        limit: None or 0: all.
        report: kept up to date while captions are taken; records that give none are counted, not fatal.

    Raises:
        InvalidInput: at once for a format or limit that cannot be; while reading, for a damaged or cut-off
            file and a column that is not there; at its end, for a file without a single usable caption.
    """
    records = read_records(source, format=format, column=column, header=header)
    if limit is not None and limit < 0:
        raise InvalidInput(f"{limit} is negative; 0 means all captions", field="limit")
    return _captions(source, records, column or None, limit or None, report or CaptionReport())


def read_records(
    source: Source,
    *,
    format: str | None = None,
    column: str | None = None,
    header: bool | None = None,
    options: Options | None = None,
) -> Iterator[str | Flaw]:
    """Every record of a source in order: its caption, or why it gives none. Raises as `read_captions`.

    Args:
        options: receives what the reader finds out; `column` and `header` are taken from it if it is given.
    """
    chosen = options or Options(column or None, header)
    return _records(source, READERS[check_format(source.name, format)], chosen)


def check_format(name: str, format: str | None = None) -> str:
    """The format asked for, or the one of the file name's extension. Raises InvalidInput."""
    if format:
        if format not in READERS:
            raise InvalidInput(f"{format!r} is not one of {', '.join(FORMATS)}", field="format")
        return format
    bare = re.sub(r"\.(gz|gzip|zst|zstd)$", "", name.lower())
    extension = bare.rpartition(".")[2] if "." in bare else ""
    if extension not in EXTENSIONS:
        known = ", ".join(f".{known}" for known in EXTENSIONS)
        raise InvalidInput(
            f"the name {name!r} has no known extension ({known}, each also with .gz or .zst); "
            f"give one of {', '.join(FORMATS)}",
            field="format",
        )
    return EXTENSIONS[extension]


def cut(captions: Iterable[Caption], captions_per_shard: int) -> Iterator[tuple[int, list[Caption]]]:
    """Shard numbers from 0 with their captions, `captions_per_shard` each, the last one with what is left."""
    if captions_per_shard < 1:
        raise InvalidInput(f"{captions_per_shard} is less than 1", field="captions_per_shard")
    iterator = iter(captions)
    shard = 0
    while batch := list(islice(iterator, captions_per_shard)):
        yield shard, batch
        shard += 1


def _captions(
    source: Source,
    records: Iterator[str | Flaw],
    column: str | None,
    limit: int | None,
    report: CaptionReport,
) -> Iterator[Caption]:
    taken = 0
    for index, record in enumerate(records):
        if isinstance(record, Flaw):
            report.count(record)
            continue
        report.count(None)
        taken += 1
        yield Caption(index, record)
        if taken == limit:
            return
    if not taken:
        raise nothing_usable(source, column, report)


def _records(source: Source, reader: Reader, options: Options) -> Iterator[str | Flaw]:
    """The records of a source's files, one file after the other; an error in one of several names it."""
    for part in source.members or (source,):
        with decompressed(part) as file:
            if reader is read_parquet and not file.seekable():
                raise InvalidInput(
                    f"{part.name}: unpack a Parquet file; it is compressed inside", field="source"
                )
            try:
                yield from reader(file, options)
            except InvalidInput as error:
                text = str(error).removeprefix(f"{error.field}: ")
                if not (source.members or reader is read_samples) or text.startswith(part.name):
                    raise
                raise InvalidInput(f"{part.name}: {text}", field=error.field) from error


def nothing_usable(source: Source, column: str | None, report: CaptionReport) -> InvalidInput:
    """The error of a source without a single usable caption."""
    if report.lines and report.missing_column == report.lines:
        what = f"no record of {source.name} has {column!r}" if column else f"{source.name}: no usual column"
        return InvalidInput(f"{what}; name the column that holds the captions", field="column")
    return InvalidInput(
        f"{source.name} has no usable caption ({report}); check its format and column", field="source"
    )
