"""The step below all readers: bytes in UTF-8, UTF-16 or UTF-32, with any line ends, become UTF-8 lines.

Bytes that are no characters of the file's encoding stay bytes that are no UTF-8, so that the readers above
count their record as badly encoded.
"""

import codecs
import io
from collections.abc import Iterator
from typing import TYPE_CHECKING, BinaryIO

from stablerep.captions.caption import Flaw
from stablerep.captions.formats.options import Options
from stablerep.errors import InvalidInput

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

MAX_LINE_BYTES = 1 << 20
HEAD_BYTES = 1 << 16
"""Of a file, to recognise its encoding and its line ends by."""
BUFFER_BYTES = 1 << 18
MARK = b"\xef\xbb\xbf"
_MARKS = {
    b"\xff\xfe\0\0": "utf-32-le",  # before UTF-16's, which it begins with
    b"\0\0\xfe\xff": "utf-32-be",
    b"\xff\xfe": "utf-16-le",
    b"\xfe\xff": "utf-16-be",
}
_NO_TEXT = {
    b"PK\3\4": "a ZIP archive or a spreadsheet",
    b"PAR1\x15": "a Parquet file",
    b"BZh91AY&SY": "packed by bzip2",
    b"\xfd7zXZ\0": "packed by xz",
    b"7z\xbc\xaf\x27\x1c": "a 7z archive",
    b"\xd0\xcf\x11\xe0": "an old spreadsheet",
}
"""Some lines of these would pass for captions."""
_BAD = "stablerep.bad"
codecs.register_error(_BAD, lambda error: ("\udc80", error.end))  # type: ignore[attr-defined]


def lines(file: BinaryIO, options: Options) -> Iterator[bytes | Flaw]:
    """Lines in UTF-8, without ends and byte order marks; one over a mebibyte is a flaw.

    Line ends are \\n or \\r\\n; in a file whose first 64 KiB have no \\n they are \\r, as on old Macs.
    """
    read_line = utf8(file, options).readline
    while line := read_line(MAX_LINE_BYTES):
        if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
            while (rest := read_line(MAX_LINE_BYTES)) and not rest.endswith(b"\n"):
                pass
            yield Flaw.TOO_LONG
            continue
        line = line.rstrip(b"\r\n")
        # Files appended to each other have marks inside.
        yield line.removeprefix(MARK) if line.startswith(MARK) else line


def utf8(file: BinaryIO, options: Options) -> BinaryIO:
    """The file's characters in UTF-8, without the mark at its start; notes the encoding in `options`."""
    head = b""
    while len(head) < HEAD_BYTES and (piece := file.read(HEAD_BYTES - len(head))):
        head += piece
    for magic, kind in _NO_TEXT.items():
        if head.startswith(magic):
            raise InvalidInput(f"the file is {kind}, not text; unpack or export it", field="source")
    if head[257:262] == b"ustar":
        raise InvalidInput("the file is a tar, not text; give the format webdataset", field="format")
    mark, options.encoding = _encoding(head)
    raw: io.RawIOBase = _Rest(head[len(mark) :], file)
    is_mac = b"\r" in head and b"\n" not in head
    if options.encoding != "utf-8" or is_mac:
        raw = _Transcoded(raw, options.encoding, is_mac)
    return io.BufferedReader(raw, BUFFER_BYTES)


def decoded(data: bytes) -> str:
    """The characters of a small file of any of these encodings. Raises UnicodeDecodeError."""
    mark, encoding = _encoding(data)
    return data[len(mark) :].decode(encoding)


def _encoding(head: bytes) -> tuple[bytes, str]:
    """The mark at a file's start, and its encoding; without a mark, UTF-16 is known by its zeros."""
    for mark, encoding in _MARKS.items():
        if head.startswith(mark):
            return mark, encoding
    if head.startswith(MARK):
        return MARK, "utf-8"
    even, odd = head[::2].count(0), head[1::2].count(0)
    if max(even, odd) > 0.4 * len(head) / 2 > 10 * min(even, odd):
        return b"", "utf-16-le" if odd > even else "utf-16-be"
    return b"", "utf-8"


class _Rest(io.RawIOBase):
    """A file of which the head was read already."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head, self._file = memoryview(head), file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        piece = self._head[: len(view)] or self._file.read(len(view))
        self._head = self._head[len(piece) :]
        view[: len(piece)] = piece
        return len(piece)


class _Transcoded(io.RawIOBase):
    """A file in another encoding or with other line ends, in UTF-8 and with \\n."""

    def __init__(self, file: io.RawIOBase, encoding: str, is_mac: bool) -> None:
        self._file, self._is_mac = file, is_mac
        self._plain = encoding == "utf-8"
        self._decoder = codecs.getincrementaldecoder(encoding)(_BAD)
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        ended = False
        while not self._piece and not ended:
            data = self._file.read(HEAD_BYTES) or b""
            ended = not data
            if not self._plain:
                data = self._decoder.decode(data, final=ended).encode("utf-8", "surrogatepass")
            self._piece = memoryview(data.replace(b"\r", b"\n") if self._is_mac else data)
        length = min(len(view), len(self._piece))
        view[:length] = self._piece[:length]
        self._piece = self._piece[length:]
        return length
