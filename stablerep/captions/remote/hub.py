"""Files of dataset repositories on the Hugging Face hub, `hf://datasets/owner/name@revision/file`.

Read through huggingface_hub, which is imported when the first such URL is read. Never tried against the hub
itself: only the adapter is tested, on another file system of fsspec.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from stablerep.errors import InvalidInput, NotFound, TornObject, Unavailable
from stablerep.storage.interface import ObjectInfo

_SCHEME = "hf://"


class FsspecObjects:
    """`stat`, `list` and `get_range` on a file system of fsspec; keys are its paths after `scheme`."""

    def __init__(self, files: Any, scheme: str, failures: tuple[type[Exception], ...] = (OSError,)) -> None:
        self._files = files
        self._scheme = scheme
        self._failures = failures

    def stat(self, key: str) -> ObjectInfo | None:
        try:
            with self._errors(key):
                return replace(self._info(self._files.info(self._path(key))), key=key)
        except NotFound:
            return None

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Files of one folder whose key begins with `prefix`, in order; none where there is no folder."""
        folder = self._path(prefix).rpartition("/")[0]
        try:
            with self._errors(prefix):
                found = self._files.ls(folder, detail=True)
        except NotFound:
            return
        infos = [self._info(facts) for facts in found if facts["type"] == "file"]
        yield from sorted((info for info in infos if info.key.startswith(prefix)), key=lambda info: info.key)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if not length:
            return b""
        # Without fsspec's cache, which reads megabytes ahead; the reader above keeps what it needs.
        with self._errors(key), self._files.open(self._path(key), "rb", cache_type="none") as file:
            file.seek(offset)
            data = bytes(file.read(length))
        if len(data) != length:
            raise TornObject(f"{key} ends before byte {offset + length}")
        return data

    def _path(self, key: str) -> str:
        return key.removeprefix(self._scheme)

    def _info(self, facts: dict[str, Any]) -> ObjectInfo:
        name = str(facts["name"])
        etag = facts.get("blob_id") or facts.get("ETag") or self._files.checksum(name)
        return ObjectInfo(f"{self._scheme}{name}", int(facts["size"] or 0), str(etag))

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        try:
            yield
        except (FileNotFoundError, IsADirectoryError) as error:
            raise NotFound(f"there is no file {key}") from error
        except self._failures as error:
            text = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise Unavailable(f"{key} cannot be read: {text}; try again") from error


def open_hub() -> FsspecObjects:
    """Raises InvalidInput where the packages are not installed."""
    try:
        from huggingface_hub import HfFileSystem
        from huggingface_hub.errors import HTTPError  # of whichever HTTP client this version has
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"hf:// needs more packages ({error.name}): pip install 'stablerep[sources]'", field="uri"
        ) from error
    # A new instance each time: it caches listings, and must not hide that a file has changed.
    files = HfFileSystem(skip_instance_cache=True)
    return FsspecObjects(files, _SCHEME, (OSError, HTTPError))
