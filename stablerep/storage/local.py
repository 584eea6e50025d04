"""A store in a local folder: write beside, fsync, rename.

Create-if-absent is a hard link in place of the rename: the file system lets only one writer win.
"""

import os
import secrets
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO

from stablerep.errors import InvalidInput, NotFound, StoreError, TornObject
from stablerep.storage.store import TEMPORARY_PREFIX, ObjectInfo, check_folder, check_key, check_prefix

TRIES = 10  # at making a folder that others keep taking away


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
        path = self._path(key)
        with _reading(key):
            return path.read_bytes()

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise InvalidInput(f"offset {offset} and length {length} must not be negative", field="range")
        path = self._path(key)
        with _reading(key), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if offset + length > size:
                raise TornObject(f"{key} has {size} bytes and ends before byte {offset + length}")
            file.seek(offset)
            return file.read(length)

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = False) -> bool:
        path = self._path(key)
        if isinstance(data, Path) and not data.is_file():
            raise InvalidInput(f"{data} is not a file", field="data")
        with _writing(key):
            temporary, file = _new_file_beside(path)
            try:
                with file:
                    _write_durably(file, data)
                won = (_link if if_absent else _rename)(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
            _sync_folder(path.parent)
        return won

    def stat(self, key: str) -> ObjectInfo | None:
        path = self._path(key)
        try:
            with _reading(key):
                return _info(key, path) if path.is_file() else None
        except NotFound:  # deleted between the two looks
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
        path = self._path(key)
        try:
            with _reading(key):
                path.unlink()
                _sync_folder(path.parent)
        except NotFound:
            return

    def delete_many(self, keys: Iterable[str]) -> int:
        count = 0
        folders: set[Path] = set()  # each is made durable once, not once an object
        try:
            for key in keys:
                count += 1
                path = self._path(key)
                with suppress(NotFound), _reading(key):
                    path.unlink()
                    folders.add(path.parent)
        finally:
            for folder in folders:
                self._tidy(folder)
        return count

    def _tidy(self, folder: Path) -> None:
        """Takes a folder away, and those above it, while they are empty; what stays is made durable."""
        while folder != self.root:
            try:
                folder.rmdir()
            except OSError:  # others have written into it, or taken it away
                break
            folder = folder.parent
        with suppress(FileNotFoundError):
            _sync_folder(folder)

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _children(self, prefix: str) -> Iterator[str]:
        for name in self._names(prefix):
            key = prefix + name
            if self._holds_objects(key) if name.endswith("/") else _is_key(key):
                yield name

    def _holds_objects(self, folder: str) -> bool:
        """Whether there is an object below `folder` ("a/b/"), at any depth: folders outlive their objects."""
        try:
            with _reading(folder), os.scandir(self.root / folder) as entries:
                return any(
                    self._holds_objects(f"{folder}{e.name}/") if e.is_dir() else _is_key(folder + e.name)
                    for e in entries
                )
        except NotFound:
            return False

    def _names(self, folder: str) -> Sequence[str]:
        """Files and folders in `folder` ("" or "a/b/"), sorted: a folder sorts as its name with the slash."""
        try:
            with _reading(folder), os.scandir(self.root / folder) as entries:
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


@contextmanager
def _reading(key: str) -> Iterator[None]:
    try:
        yield
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError) as error:
        raise NotFound(f"there is no object {key}") from error
    except OSError as error:
        raise _refused(key, error) from error


@contextmanager
def _writing(key: str) -> Iterator[None]:
    try:
        yield
    except (FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise StoreError(
            f"{key} cannot be written: a file stands where it needs a folder, or the reverse"
        ) from error
    except OSError as error:
        raise _refused(key, error) from error


def _refused(key: str, error: OSError) -> StoreError:
    return error if isinstance(error, StoreError) else StoreError(f"{key}: {error.strerror or error}")


def _new_file_beside(path: Path) -> tuple[Path, BinaryIO]:
    """A new file in the folder of `path`, which is made, again if `delete_many` just took it away."""
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    for _ in range(TRIES):
        with suppress(FileNotFoundError):
            _make_folder(path.parent)
            return temporary, temporary.open("xb")
    _make_folder(path.parent)
    return temporary, temporary.open("xb")


def _write_durably(file: BinaryIO, data: bytes | Path) -> None:
    if isinstance(data, Path):
        with data.open("rb") as source:
            copyfileobj(source, file, 1 << 20)
    else:
        file.write(data)
    file.flush()
    os.fsync(file.fileno())


def _rename(temporary: Path, path: Path) -> bool:
    temporary.replace(path)
    return True


def _link(temporary: Path, path: Path) -> bool:
    try:
        os.link(temporary, path)
    except FileExistsError:
        if path.is_dir():
            raise
        return False
    return True


def _make_folder(folder: Path) -> None:
    """Makes a folder and its parents, each made durable in its parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    _sync_folder(folder.parent)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _info(key: str, path: Path) -> ObjectInfo:
    status = path.stat()
    # Clock ticks are coarser than two quick writes of one size; the inode tells these apart.
    return ObjectInfo(key, status.st_size, f"{status.st_size:x}-{status.st_mtime_ns:x}-{status.st_ino:x}")
