"""Files that a crash leaves whole or not there at all: written beside, forced to disk, then named."""

import os
import secrets
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from pathlib import Path
from shutil import copyfileobj
from typing import BinaryIO

from stablerep.storage.keys import TEMPORARY_PREFIX

TRIES = 10  # attempts to create a folder that others keep removing


@contextmanager
def written_beside(path: Path, data: bytes | Path) -> Iterator[Path]:
    """A temporary file with the data, on disk, in the folder of `path`, which is made where it is missing.

    The caller renames or links it to `path`; any remainder is removed at the end.
    """
    temporary, file = _new_file_beside(path)
    try:
        with file:
            if isinstance(data, Path):
                with data.open("rb") as source:
                    copyfileobj(source, file, 1 << 20)
            else:
                file.write(data)
            file.flush()
            os.fsync(file.fileno())
        yield temporary
    finally:
        temporary.unlink(missing_ok=True)


def write_whole(files: Sequence[tuple[Path, bytes]], syncing: Executor) -> None:
    """Writes many small files, several times as fast as one by one: the disk is asked for all at once.

    Whole after a crash, each of them; their names are durable after `sync_folder` of their folders.
    """
    temporaries: list[Path] = []
    try:
        for path, data in files:
            temporary, file = _new_file_beside(path)
            temporaries.append(temporary)
            with file:
                file.write(data)
        deque(syncing.map(_sync, temporaries), maxlen=0)
        for temporary, (path, _) in zip(temporaries, files, strict=True):
            temporary.replace(path)
    finally:
        for temporary in temporaries:
            temporary.unlink(missing_ok=True)


def name_only_if_free(temporary: Path, path: Path) -> bool:
    """Names the file unless that name is taken; of many concurrent callers, one gets True."""
    try:
        os.link(temporary, path)
    except FileExistsError:
        if path.is_dir():
            raise
        return False
    return True


def sync_folder(folder: Path) -> None:
    """Makes durable which names are in the folder; one that others have removed since is fine."""
    with suppress(FileNotFoundError):
        _sync(folder)


def remove_while_empty(folder: Path, root: Path) -> None:
    """Removes empty folders, from `folder` up to below `root`, durably."""
    while folder != root:
        try:
            folder.rmdir()
        except OSError:  # others have written into it or removed it
            break
        folder = folder.parent
    sync_folder(folder)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _new_file_beside(path: Path) -> tuple[Path, BinaryIO]:
    temporary = path.parent / f"{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    for _ in range(TRIES):
        with suppress(FileNotFoundError):  # `remove_while_empty` was quicker
            _make_folder(path.parent)
            return temporary, temporary.open("xb")
    _make_folder(path.parent)
    return temporary, temporary.open("xb")


def _make_folder(folder: Path) -> None:
    """Makes a folder and its parents, each made durable in its parent."""
    if folder.is_dir():
        return
    _make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)
