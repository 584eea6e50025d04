"""A store in a local folder: write beside, fsync, rename.

Create-if-absent is a hard link in place of the rename: the file system lets only one writer win.
"""

import errno
import os
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

from stablerep.errors import InvalidInput, NotFound, StoreError, StoreRefused, TornObject
from stablerep.storage.interface import ObjectInfo, batches
from stablerep.storage.keys import check_folder, check_key, check_prefix
from stablerep.storage.local.durable_files import (
    name_only_if_free,
    remove_while_empty,
    sync_folder,
    write_whole,
    written_beside,
)

SYNCS = 4  # at a time; 8 and 16 were no faster
FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
CLOSED = frozenset({errno.EACCES, errno.EPERM, errno.EROFS, errno.ESTALE, errno.ENOTCONN, errno.ETIMEDOUT})
"""Errors of the file system, not of an object: permissions, read-only, a network mount that is gone."""


class LocalStore:
    """Keys are paths below `root`. Safe for many processes and threads; a crash leaves no half object.

    The folder is made by the first `put`; reading before finds an empty store.

    One limit that S3 has not: `a` and `a/b` cannot both be objects; the later one raises StoreError.
    """

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()

    @property
    def url(self) -> str:
        return self.root.as_uri()

    def get(self, key: str) -> bytes:
        path = self.path_of(key)
        with self._reading(key):
            return path.read_bytes()

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise InvalidInput(f"offset {offset} and length {length} must not be negative", field="range")
        path = self.path_of(key)
        with self._reading(key), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if offset + length > size:
                raise TornObject(f"{key} has {size} bytes and ends before byte {offset + length}")
            file.seek(offset)
            return file.read(length)

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = False) -> bool:
        path = self.path_of(key)
        if isinstance(data, Path) and not data.is_file():
            raise InvalidInput(f"{data} is not a file", field="data")
        with self._writing(key):
            with written_beside(path, data) as temporary:
                if if_absent:
                    won = name_only_if_free(temporary, path)
                else:
                    temporary.replace(path)
                    won = True
            sync_folder(path.parent)
        return won

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> int:
        count = 0
        folders: set[Path] = set()
        with ThreadPoolExecutor(SYNCS) as syncing:
            for batch in batches(objects):
                files = [(self.path_of(key), data) for key, data in batch]
                with self._writing(f"{batch[0][0]} and {len(batch) - 1} more"):
                    write_whole(files, syncing)
                folders.update(path.parent for path, _ in files)
                count += len(batch)
        for folder in folders:
            with self._writing(str(folder)):
                sync_folder(folder)
        return count

    def stat(self, key: str) -> ObjectInfo | None:
        path = self.path_of(key)
        try:
            with self._reading(key):
                return _info(key, path) if path.is_file() else None
        except NotFound:  # deleted between the two calls
            return None

    def exists(self, key: str) -> bool:
        return self.stat(key) is not None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        check_prefix(prefix)
        folder, _, _ = prefix.rpartition("/")
        return self._walk(f"{folder}/" if folder else "", prefix)

    def children(self, prefix: str = "") -> Iterator[str]:
        return self._children(check_folder(prefix))

    def delete(self, key: str) -> None:
        path = self.path_of(key)
        try:
            with self._reading(key):
                path.unlink()
                sync_folder(path.parent)
        except NotFound:
            return

    def delete_many(self, keys: Iterable[str]) -> int:
        count = 0
        folders: set[Path] = set()  # each is made durable once, not once an object
        try:
            for key in keys:
                count += 1
                path = self.path_of(key)
                with suppress(NotFound), self._reading(key):
                    path.unlink()
                    folders.add(path.parent)
        finally:
            for folder in folders:
                with self._writing(str(folder)):
                    remove_while_empty(folder, self.root)
        return count

    def path_of(self, key: str) -> Path:
        """The file that the object is, whether it is there or not."""
        return self.root / check_key(key)

    @contextmanager
    def _reading(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
            raise NotFound(f"there is no object {key}") from error
        except OSError as error:
            raise self._refused(key, error) from error

    @contextmanager
    def _writing(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
            raise StoreError(
                f"{key} cannot be written: a file exists where a folder is needed, or the reverse"
            ) from error
        except OSError as error:
            raise self._refused(key, error) from error

    def _refused(self, key: str, error: OSError) -> StoreError:
        if isinstance(error, StoreError):
            return error
        if error.errno in FULL:
            return StoreRefused(
                f"disk full: no room for {key} in {self.root} ({error.strerror}); make some there"
            )
        if error.errno in CLOSED:
            return StoreRefused(
                f"{key}: {self.root} cannot be used ({error.strerror}); check its permissions and mount"
            )
        return StoreError(f"{key}: {error.strerror or error}")

    def _children(self, prefix: str) -> Iterator[str]:
        for name in self._names(prefix):
            key = prefix + name
            if self._holds_objects(key) if name.endswith("/") else _is_key(key):
                yield name

    def _holds_objects(self, folder: str) -> bool:
        """Whether there is an object below `folder` ("a/b/"), at any depth: folders outlive their objects."""
        try:
            with self._reading(folder), os.scandir(self.root / folder) as entries:
                return any(
                    self._holds_objects(f"{folder}{e.name}/") if e.is_dir() else _is_key(folder + e.name)
                    for e in entries
                )
        except NotFound:
            return False

    def _names(self, folder: str) -> Sequence[str]:
        """Files and folders in `folder` ("" or "a/b/"), sorted: a folder sorts as its name with the slash."""
        try:
            with self._reading(folder), os.scandir(self.root / folder) as entries:
                return sorted(e.name + "/" if e.is_dir() else e.name for e in entries)
        except NotFound:
            return []

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        """Objects below `folder` ("" or "a/b/") that start with `prefix`, in key order."""
        for name in self._names(folder):
            key = folder + name
            if not (key.startswith(prefix) or prefix.startswith(key)):
                continue
            if name.endswith("/"):
                yield from self._walk(key, prefix)
                continue
            info = self.stat(key) if key.startswith(prefix) and _is_key(key) else None
            if info is not None:
                yield info


def _is_key(key: str) -> bool:
    """Files that others left in the folder under names no key can have are no objects."""
    try:
        check_key(key)
    except InvalidInput:
        return False
    return True


def _info(key: str, path: Path) -> ObjectInfo:
    status = path.stat()
    # Clock ticks are coarser than two quick writes of one size; the inode distinguishes them.
    return ObjectInfo(key, status.st_size, f"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}")
