"""Files that may be replaced while a process runs: what is made of them is made again when they change."""

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from stablerep.errors import InvalidInput

logger = logging.getLogger("stablerep.serving")
T = TypeVar("T")
_Version = tuple[tuple[int, ...] | None, ...]


class ReloadedFiles(Generic[T]):
    """What `read` makes of the files, as they are now.

    A new version that cannot be read leaves the value as it was, and is logged as an error once. A Secret
    that Kubernetes mounts is replaced by turning a link, which changes the file's inode.

    Raises whatever `read` raises, on construction only; later InvalidInput alone is caught.
    """

    def __init__(self, files: Sequence[Path], read: Callable[[], T]) -> None:
        self._files = tuple(files)
        self._read = read
        self._version = self._read_version()
        self._value = read()

    def get(self) -> T:
        """The value; costs one stat a file while nothing has changed."""
        version = self._read_version()
        if version == self._version:
            return self._value
        self._version = version  # taken before reading: what is written meanwhile is another version
        names = ", ".join(map(str, self._files))
        try:
            self._value = self._read()
        except InvalidInput as error:
            logger.error("the new version of %s is not used, the old one stays: %s", names, error)
        else:
            logger.info("read again: %s", names)
        return self._value

    def _read_version(self) -> _Version:
        return tuple(_stat(path) for path in self._files)


def _stat(path: Path) -> tuple[int, ...] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size
