"""Where captions are read from: a local file, an object, an upload's parts as one seekable file, many tars.

Packed files, gzip or zstd, are unpacked as they are read.
"""

import gzip
import io
import zlib
from bisect import bisect_right
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import zstandard

from stablerep.captions.patterns import expand, is_pattern, matcher
from stablerep.captions.remote.http import HttpObjects
from stablerep.errors import InvalidInput, NotFound

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

    from stablerep.captions.remote.access import Objects
    from stablerep.storage.interface import Store

READ_AHEAD = 1 << 20
TAR_READ_AHEAD = 1 << 18
"""Of WebDataset shards: an image larger than this is passed over without being fetched."""
GZIP_MAGIC = b"\x1f\x8b"
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"
# One zstd block of 4 bytes can hold 128 KiB: so little input at a time bounds the output at 8 MiB. It costs
# 10 % of the speed (0.7 in place of 0.8 GB/s of text).
ZSTD_INPUT = 256
ZSTD_WINDOW = 128 << 20


@dataclass(frozen=True)
class Source:
    """Bytes under a name, whose ending gives the format. `open` gives a new seekable reader of them.

    The tars of a WebDataset stand in `members`, in order, each under its own name; `open` is not used then.
    """

    name: str
    size: int
    open: Callable[[], BinaryIO]
    members: tuple["Source", ...] = ()


def open_source(
    where: str | Path | Sequence[str], *, store: "Store | None" = None, name: str | None = None
) -> Source:
    """A local path, or a pattern of them (`{00000..00099}`, `*`); or, with `store`, keys of one file's parts.

    Objects are fetched as they are read, a mebibyte at a time. `name` stands in for the last part of a path.
    Raises NotFound, and InvalidInput for parts without a name or a path that is no file.
    """
    if store is None:
        if not isinstance(where, str | Path):
            raise InvalidInput("parts of a file are read from a store; give one", field="source")
        if isinstance(where, str) and is_pattern(where) and not Path(where).exists():
            return many_sources(where, [_local(path, str(path)) for path in local_paths(where)])
        return _local(Path(where), name)
    keys = [str(where)] if isinstance(where, str | Path) else list(where)
    if name is None and len(keys) != 1:
        raise InvalidInput("parts of a file need the name of the file", field="source")
    sizes = [_size(store, key) for key in keys]
    return Source(
        name if name is not None else keys[0].rpartition("/")[2],
        sum(sizes),
        lambda: object_reader(store, keys, sizes),
    )


def object_reader(
    objects: "Objects", keys: list[str], sizes: list[int], read_ahead: int = READ_AHEAD
) -> io.BufferedReader:
    """Objects one after the other as one seekable file, fetched `read_ahead` bytes at a time."""
    return io.BufferedReader(_Parts(objects, keys, sizes), read_ahead)


def many_sources(pattern: str, members: list[Source]) -> Source:
    """The files that a pattern stands for, in order."""
    name = pattern.rpartition("/")[2]
    return Source(name, sum(member.size for member in members), lambda: members[0].open(), tuple(members))


def local_paths(pattern: str) -> list[Path]:
    """The files of this machine that a pattern stands for, in order. Raises NotFound."""
    found: list[Path] = []
    for name in expand(str(Path(pattern).expanduser())):
        if "*" in name:
            _, whole = matcher(name)
            near = Path(name).parent.glob("*")
            found += sorted(path for path in near if whole.fullmatch(str(path)))
        else:
            found.append(Path(name))
    if not found:
        raise NotFound(f"there are no files {pattern}")
    return found


def decompressed(source: Source) -> BinaryIO:
    """The bytes of a source, unpacked if they are gzip or zstd, as their first bytes say.

    Reading raises InvalidInput naming the source where what is packed is damaged or cut off.
    """
    file = source.open()
    magic = file.read(4)
    file.seek(0)
    if magic.startswith(GZIP_MAGIC):
        return io.BufferedReader(_Unpacked(file, _gzip_pieces(file), source.name), READ_AHEAD)
    if magic == ZSTD_MAGIC:
        return io.BufferedReader(_Unpacked(file, _ZstdPieces(file), source.name), READ_AHEAD)
    return file


def _local(path: Path, name: str | None) -> Source:
    path = path.expanduser()
    if not path.exists():
        raise NotFound(f"there is no file {path}")
    if not path.is_file():
        raise InvalidInput(f"{path} is not a file", field="source")
    return Source(name or path.name, path.stat().st_size, lambda: path.open("rb"))


def _size(store: "Store", key: str) -> int:
    info = store.stat(key)
    if info is None:
        raise NotFound(f"there is no object {key} in {store.url}")
    return info.size


class _Parts(io.RawIOBase):
    """Objects one after the other, as one file to read."""

    def __init__(self, objects: "Objects", keys: list[str], sizes: list[int]) -> None:
        self._objects = objects
        self._keys = keys
        self._starts = [0, *accumulate(sizes)]
        self._position = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._starts[-1]}[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        return self._position

    def close(self) -> None:
        if isinstance(self._objects, HttpObjects):
            self._objects.close()  # its connections; a store keeps its own
        super().close()

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        if self._position >= self._starts[-1] or not len(view):
            return 0
        part = bisect_right(self._starts, self._position) - 1
        length = min(len(view), self._starts[part + 1] - self._position)
        offset = self._position - self._starts[part]
        view[:length] = self._objects.get_range(self._keys[part], offset, length)
        self._position += length
        return length


def _gzip_pieces(file: BinaryIO) -> Callable[[], bytes]:
    unpacked = gzip.GzipFile(fileobj=file)
    return lambda: unpacked.read1(READ_AHEAD)


class _ZstdPieces:
    """Unpacks zstd frames; `stream_reader` of zstandard would take a cut-off frame for the end."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._decompressor = zstandard.ZstdDecompressor(max_window_size=ZSTD_WINDOW)
        self._frame: zstandard.ZstdDecompressionObj | None = None
        self._rest = b""

    def __call__(self) -> bytes:
        while True:
            packed = self._rest or self._file.read(ZSTD_INPUT)
            self._rest = b""
            if not packed:
                if self._frame is not None:
                    raise EOFError("it ends within a zstd frame")
                return b""
            self._frame = self._frame or self._decompressor.decompressobj()
            piece = self._frame.decompress(packed)
            if self._frame.eof:
                self._rest, self._frame = self._frame.unused_data, None
            if piece:
                return piece


class _Unpacked(io.RawIOBase):
    """What a packed file holds, by a function that gives the next piece, b"" at the end."""

    def __init__(self, packed: BinaryIO, next_piece: Callable[[], bytes], name: str) -> None:
        self._packed = packed
        self._next_piece = next_piece
        self._name = name
        self._piece = memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        view = memoryview(buffer).cast("B")
        if not self._piece:
            self._piece = memoryview(self._unpack())
        length = min(len(view), len(self._piece))
        view[:length] = self._piece[:length]
        self._piece = self._piece[length:]
        return length

    def close(self) -> None:
        self._packed.close()
        super().close()

    def _unpack(self) -> bytes:
        try:
            return self._next_piece()
        except (EOFError, gzip.BadGzipFile, zlib.error, zstandard.ZstdError) as error:
            raise InvalidInput(
                f"{self._name} is damaged or cut off: {error}; fetch or pack it again", field="source"
            ) from error
