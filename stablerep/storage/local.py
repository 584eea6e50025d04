"""A store in a local folder: write beside, fsync, rename.

Create-if-absent is a hard link in place of the rename: the file system lets only one writer win.
"""

import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from shutil import copyfileobj

from stablerep.errors import InvalidInput, NotFound, StoreError, TornObject
from stablerep.storage.store import TEMPORARY_PREFIX, ObjectInfo, check_key, check_prefix


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
            _make_folder(path.parent)
            temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
            try:
                _write_durably(temporary, data)
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

    def delete(self, key: str) -> None:
        path = self._path(key)
        try:
            with _reading(key):
                path.unlink()
                _sync_folder(path.parent)
        except NotFound:
            return

    def _path(self, key: str) -> Path:
        return self.root / check_key(key)

    def _walk(self, folder: str, prefix: str) -> Iterator[ObjectInfo]:
        """Objects below `folder` ("" or "a/b/"), in key order: a folder sorts as its name with the slash."""
        try:
            with _reading(folder), os.scandir(self.root / folder) as entries:
                names = sorted(e.name + "/" if e.is_dir() else e.name for e in entries)
        except NotFound:
            return
        for name in names:
            key = folder + name
            if name.startswith(TEMPORARY_PREFIX) or not (key.startswith(prefix) or prefix.startswith(key)):
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


def _write_durably(path: Path, data: bytes | Path) -> None:
    with path.open("xb") as file:
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
