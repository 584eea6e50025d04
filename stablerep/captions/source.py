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

from stablerep import zstd
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
ZSTD_WINDOW_LOG = 27
"""128 MiB: what unpacking a file may take, as the zstd command allows without being asked."""


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
        return io.BufferedReader(_Unpacked(file, gzip.GzipFile(fileobj=file), source.name), READ_AHEAD)
    if magic == ZSTD_MAGIC:
        limits: dict[int, int] = {zstd.DecompressionParameter.window_log_max: ZSTD_WINDOW_LOG}
        unpacking = zstd.ZstdFile(file, options=limits)
        return io.BufferedReader(_Unpacked(file, unpacking, source.name), READ_AHEAD)
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


class _Unpacked(io.RawIOBase):
    """What a packed file holds, a buffer at a time."""

    def __init__(self, packed: BinaryIO, unpacking: io.BufferedIOBase, name: str) -> None:
        self._packed = packed
        self._unpacking = unpacking
        self._name = name

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: "WriteableBuffer") -> int:
        try:
            return self._unpacking.readinto(buffer)
        except (EOFError, gzip.BadGzipFile, zlib.error, zstd.ZstdError) as error:
            raise InvalidInput(
                f"{self._name} is damaged or cut off: {error}; fetch or pack it again", field="source"
            ) from error

    def close(self) -> None:
        self._packed.close()
        super().close()
