"""Blocks of a manifest as memory-mapped files: those of a local store where they lie, others as copies.

All processes of a machine share a copy, and with it the memory that it is mapped to. A copy's name is the
checksum of its contents, so that it never grows old.
"""

import fcntl
import hashlib
import logging
import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa

from stablerep.errors import NotFound, StoreError, TornObject
from stablerep.shards.block import open_block
from stablerep.shards.layout import block_key
from stablerep.shards.manifest import BlockEntry
from stablerep.storage import Store
from stablerep.storage.local.store import LocalStore

logger = logging.getLogger("stablerep.data")

_UNUSED_DAYS = 30  # after which a copy is removed


def map_block(store: Store, dataset: str, entry: BlockEntry) -> pa.RecordBatch:
    """A block, mapped. Raises NotFound, and TornObject where it is not what the manifest says."""
    key = block_key(dataset, entry.number, entry.sha256)
    if isinstance(store, LocalStore):
        path = store.path_of(key)
        if not path.exists():
            raise NotFound(f"there is no object {key}")
        return open_block(_checked(_mapped(path), entry, key))
    try:
        path = _cache_folder() / f"{entry.sha256}.arrow"
        with _one_process(path.with_suffix(".lock")):
            if not path.exists() or not _is_whole(path, entry):
                _write_copy(path, _checked(store.get(key), entry, key))
            os.utime(path)
    except StoreError:
        raise
    except OSError as error:  # no folder that can be written, or a full disk
        logger.warning("no copy of %s on this machine's disk (%s): each process holds it", key, error)
        return open_block(pa.py_buffer(_checked(store.get(key), entry, key)))
    return open_block(_mapped(path))


def _mapped(path: Path) -> pa.Buffer:
    with pa.memory_map(str(path)) as file:
        return file.read_buffer()


def _is_whole(path: Path, entry: BlockEntry) -> bool:
    return hashlib.sha256(_mapped(path)).hexdigest() == entry.sha256


def _checked(data: "bytes | pa.Buffer", entry: BlockEntry, key: str) -> "bytes | pa.Buffer":
    if hashlib.sha256(data).hexdigest() != entry.sha256:
        raise TornObject(f"{key} has other bytes than were written")
    return data


def _write_copy(path: Path, data: bytes) -> None:
    _remove_unused(path.parent)
    with tempfile.NamedTemporaryFile(dir=path.parent, delete=False) as file:
        file.write(data)
    Path(file.name).replace(path)


def _remove_unused(folder: Path) -> None:
    oldest = time.time() - _UNUSED_DAYS * 86400
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            if path.stat().st_mtime < oldest:
                path.unlink()


def _cache_folder() -> Path:
    """Where copies lie: under the user's cache folder, or a folder of the user's own for temporary files."""
    base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    for folder in (base / "stablerep", Path(tempfile.gettempdir()) / f"stablerep-{os.getuid()}"):
        with suppress(OSError):
            path = folder / "manifests"
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
            if path.stat().st_uid == os.getuid() and os.access(path, os.W_OK):
                return path
    raise PermissionError(f"neither {base} nor {tempfile.gettempdir()} can be written")


@contextmanager
def _one_process(path: Path) -> Iterator[None]:
    """Holds a lock between the processes of this machine."""
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
        path.unlink(missing_ok=True)
