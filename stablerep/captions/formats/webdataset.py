"""Captions in WebDataset shards as img2dataset writes them: `<key>.txt` or `<key>.json` beside `<key>.jpg`.

A tar is read from front to back, member by member, and images are passed over. `tarfile` would stop silently
at a damaged header and take a cut-off archive for a short one; here both are errors.
"""

import json
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO

from stablerep.captions.caption import Flaw, clean
from stablerep.captions.formats.characters import decoded
from stablerep.captions.formats.columns import usual_column
from stablerep.captions.formats.options import Options
from stablerep.errors import InvalidInput

MAX_TEXT_BYTES = 1 << 20
MAX_JSON_BYTES = 4 << 20
MAX_HEADER_BYTES = 1 << 20
"""Of a long name or a pax header, which are held in memory."""
MAX_MEMBER_BYTES = 1 << 40
_BLOCK = tarfile.BLOCKSIZE
_SKIP = 1 << 16
_MOST_ZEROS = 16 << 20
"""Looked at behind the end; programs pad to a few KiB, and what is packed may be zeros without end."""
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.CONTTYPE)
_EMPTY = (
    tarfile.LNKTYPE,
    tarfile.SYMTYPE,
    tarfile.CHRTYPE,
    tarfile.BLKTYPE,
    tarfile.DIRTYPE,
    tarfile.FIFOTYPE,
)
"""Members without content, whatever size their headers give."""


@dataclass
class _Sample:
    """What of one sample's members says its caption; None where there is no such member."""

    key: str
    extensions: set[str] = field(default_factory=set)
    text: bytes | Flaw | None = None
    json: bytes | Flaw | None = None


def read_samples(file: BinaryIO, options: Options) -> Iterator[str | Flaw]:
    """One record a sample: its `.txt`, else the usual field of its `.json`; with a column, that field.

    Raises InvalidInput where the tar is damaged or cut off, with the place.
    """
    tar, column = _Tar(file), options.column
    sample: _Sample | None = None
    for name, size in tar.members():
        key, extension = _key(name)
        if not extension:
            continue
        if sample is None or sample.key != key or extension in sample.extensions:
            if sample is not None:
                yield _caption(sample, column)
            sample = _Sample(key)
        sample.extensions.add(extension)
        if extension == "txt" and column is None:
            sample.text = tar.content() if size <= MAX_TEXT_BYTES else Flaw.TOO_LONG
        elif extension == "json":
            sample.json = tar.content() if size <= MAX_JSON_BYTES else Flaw.MALFORMED
    if sample is not None:
        yield _caption(sample, column)


def _key(name: str) -> tuple[str, str]:
    """WebDataset's rule: the key ends at the first dot of the file name; without one it is no sample's."""
    folder, slash, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    if not stem or (stem.startswith("__") and stem.endswith("__")):
        return "", ""
    return folder + slash + stem, extension.lower()


def _caption(sample: _Sample, column: str | None) -> str | Flaw:
    found = sample.json if sample.text is None else sample.text
    if found is None:
        return Flaw.MISSING_COLUMN
    if isinstance(found, Flaw):
        return found
    try:
        text = decoded(found)
        return clean(text) if sample.text is not None else _of_json(json.loads(text), column)
    except UnicodeDecodeError:
        return Flaw.BAD_ENCODING
    except (ValueError, RecursionError):
        return Flaw.MALFORMED


def _of_json(record: object, column: str | None) -> str | Flaw:
    if not isinstance(record, dict):
        return Flaw.MALFORMED
    name = column if column is not None else usual_column(record)
    text = record.get(name)
    if text is None:
        return Flaw.EMPTY if name in record else Flaw.MISSING_COLUMN
    return clean(text) if isinstance(text, str) else Flaw.MISSING_COLUMN


class _Tar:
    """Members of a tar, from front to back; `content` is that of the member given last."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._seekable = file.seekable()
        self._position = 0
        self._size = 0  # of the last member, with its padding, what is left of it
        self._length = 0

    def members(self) -> Iterator[tuple[str, int]]:
        """Name and size of each file; long names (pax and GNU) are put together."""
        long_name = long_size = None
        while (header := self._header()) is not None:
            if header.type in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME):
                extra = self._extra()
                if header.type == tarfile.GNUTYPE_LONGNAME:
                    long_name = extra.rstrip(b"\0").decode(errors="replace")
                elif header.type == tarfile.XHDTYPE:
                    facts = _pax(extra, self._position)
                    long_name = facts.get("path", long_name)
                    long_size = int(size) if (size := facts.get("size", "")).isdecimal() else None
            elif header.type in _FILES:
                if long_size is not None:
                    self._begin(long_size)
                yield long_name or header.name, self._length
                long_name = long_size = None
            elif header.type == tarfile.GNUTYPE_SPARSE:
                raise self._error("it holds a sparse file")
            elif header.type != tarfile.GNUTYPE_LONGLINK:  # folders, links and devices hold no captions
                long_name = long_size = None

    def content(self) -> bytes:
        """The bytes of the last member, whole."""
        data = self._take(self._length)
        self._size -= len(data)
        return data

    def _header(self) -> tarfile.TarInfo | None:
        """The next header; None at the blocks of zeros that end a tar."""
        self._pass_over()
        block = self._take(_BLOCK)
        if not any(block):
            self._end()
            return None
        try:
            header = tarfile.TarInfo.frombuf(block, "utf-8", "replace")
        except (tarfile.HeaderError, ValueError) as error:
            raise self._error(f"no header of a member: {error}", _BLOCK) from error
        self._begin(0 if header.type in _EMPTY else header.size)
        return header

    def _begin(self, length: int) -> None:
        if not 0 <= length <= MAX_MEMBER_BYTES:
            raise self._error(f"a member of {length} bytes", _BLOCK)
        self._length = length
        self._size = -(-length // _BLOCK) * _BLOCK

    def _extra(self) -> bytes:
        if self._length > MAX_HEADER_BYTES:
            raise self._error(f"a header of {self._length} bytes")
        return self.content()

    def _end(self) -> None:
        """Raises where more than zeros follow: a header lost to zeros must not hide what is behind it."""
        for _ in range(_MOST_ZEROS // _SKIP):
            rest = self._file.read(_SKIP)
            self._position += len(rest)
            if rest.count(0) < len(rest):
                raise self._error("there are bytes after its end")
            if not rest:
                return

    def _pass_over(self) -> None:
        """Goes to the end of the last member; the last byte is read, since a seek goes past a file's end."""
        if self._size > 1 and self._seekable:
            self._file.seek(self._size - 1, 1)
            self._position += self._size - 1
            self._size = 1
        while self._size:
            self._size -= len(self._take(min(self._size, _SKIP)))

    def _take(self, length: int) -> bytes:
        data = self._file.read(length)
        self._position += len(data)
        if len(data) < length:
            raise self._error("it is cut off")
        return data

    def _error(self, problem: str, before: int = 0) -> InvalidInput:
        return InvalidInput(
            f"the tar is damaged at byte {self._position - before}: {problem}", field="source"
        )


def _pax(data: bytes, position: int) -> dict[str, str]:
    """The records `<length> <name>=<value>` of a pax header."""
    facts = {}
    while data:
        digits, _, rest = data.partition(b" ")
        length = int(digits) if digits.isdigit() and len(digits) < 8 else 0
        record = data[len(digits) + 1 : length]
        name, equals, value = record.partition(b"=")
        if not rest or not equals or len(data) < length or not record.endswith(b"\n"):
            raise InvalidInput(f"the tar is damaged at byte {position}: no pax header", field="source")
        facts[name.decode(errors="replace")] = value[:-1].decode(errors="replace")
        data = data[length:]
    return facts
