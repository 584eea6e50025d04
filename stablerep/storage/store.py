"""The object store: the small interface that everything writes through, its key rules, and `open_store`.

Two implementations stand behind it, `LocalStore` (a folder) and `S3Store` (S3 or MinIO). Both promise: an
object appears whole or not at all, `put(..., if_absent=True)` lets one writer win, listing is in key order.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar
from urllib.parse import unquote, urlsplit

from pydantic import SecretStr

from stablerep.errors import InvalidInput

T = TypeVar("T")
MAX_KEY_BYTES = 512
MAX_PART_BYTES = 255  # the longest file name that common file systems take
BATCH = 512  # objects of `put_many` that are in memory at a time
TEMPORARY_PREFIX = ".tmp-"  # files that a local store is still writing; no key may contain such a part


@dataclass(frozen=True)
class ObjectInfo:
    """What a listing tells of an object; `etag` changes whenever the object is written with other bytes."""

    key: str
    size: int
    etag: str


class S3Access(Protocol):
    """How to reach an S3 server; `stablerep.settings.S3` is one such object."""

    @property
    def endpoint(self) -> str: ...
    @property
    def access_key(self) -> str: ...
    @property
    def secret_key(self) -> str | SecretStr: ...
    @property
    def region(self) -> str: ...
    @property
    def session_token(self) -> str | SecretStr: ...
    @property
    def addressing(self) -> str: ...
    @property
    def ca_file(self) -> Path | None: ...


class Store(Protocol):
    """Objects under keys such as `datasets/shoes/shards/000012.tar`. Any thread may call."""

    @property
    def url(self) -> str:
        """`open_store(url)` opens the same store again, in another process too."""

    def get(self, key: str) -> bytes:
        """The whole object. Raises NotFound."""

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes from `offset`. Raises NotFound, and TornObject where it ends before."""

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = False) -> bool:
        """Writes bytes or a file's contents; False only when `if_absent` and the key is taken.

        On S3 it may be taken by this very call: its first try succeeded and the answer was lost on the way.
        """

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> int:
        """Writes many small objects, several at a time, each as `put` does; returns how many there were.

        They are taken BATCH at a time, and those of a batch may appear in any order; all are as safe as after
        `put` once it returns. Where it fails, some of a batch are there, each whole: call it again.
        """

    def stat(self, key: str) -> ObjectInfo | None:
        """Size and ETag, or None where there is no such object."""

    def exists(self, key: str) -> bool: ...

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        """Every object whose key starts with `prefix`, in key order."""

    def children(self, prefix: str = "") -> Iterator[str]:
        """The names directly below `prefix` ("" or "a/b/"), without it, sorted; folders end with "/".

        A folder is one that holds an object, at any depth. Raises InvalidInput for another prefix.
        """

    def delete(self, key: str) -> None:
        """Removes an object; one that is not there is fine."""

    def delete_many(self, keys: Iterable[str]) -> int:
        """Removes objects in order, in as few requests as it takes, and returns how many keys there were.

        Keys that are not there are fine. Where it fails, those before may be gone: call it again.
        """


def open_store(url: str | Path, *, s3: S3Access | None = None) -> Store:
    """The store at `file:///folder` or a plain path (made by the first write), or at `s3://bucket/prefix`.

    S3 is reached as `s3` says, else by the settings (`STABLEREP_S3__ENDPOINT`, `STABLEREP_S3__ACCESS_KEY`,
    `STABLEREP_S3__SECRET_KEY`, ...: docs/stores.md). Nothing is sent to the server before the first use; a
    missing bucket is made by the first write. Raises InvalidInput for a URL or setting that cannot work.
    """
    text = str(url)
    if text.startswith("s3://"):
        from stablerep.storage.s3 import open_s3

        return open_s3(text, s3)
    from stablerep.storage.local import LocalStore

    return LocalStore(_local_folder(text))


def batches(things: Iterable[T], size: int = BATCH) -> Iterator[tuple[T, ...]]:
    """The things in tuples of `size`, the last one shorter."""
    remaining = iter(things)
    while batch := tuple(islice(remaining, size)):
        yield batch


def check_key(key: str) -> str:
    """The key itself, if it can name an object in every store. Raises InvalidInput otherwise."""
    if not key:
        raise InvalidInput("a key is empty", field="key")
    _check_parts(key, key.split("/"))
    return key


def check_prefix(prefix: str) -> str:
    """The prefix itself, if keys could start with it. Raises InvalidInput otherwise."""
    parts = prefix.split("/")
    _check_parts(prefix, parts if parts[-1] else parts[:-1])
    return prefix


def check_folder(prefix: str) -> str:
    """The prefix itself, if it is "" or the name of a folder with its "/". Raises InvalidInput otherwise."""
    if prefix and not prefix.endswith("/"):
        raise InvalidInput(f"{prefix!r} is no folder: give it with '/' at its end", field="prefix")
    return check_prefix(prefix)


def _check_parts(key: str, parts: list[str]) -> None:
    if not key.isprintable():
        raise InvalidInput(f"{key!r} contains a control or unprintable character", field="key")
    if len(key.encode()) > MAX_KEY_BYTES:
        raise InvalidInput(f"{key[:60]!r}... is longer than {MAX_KEY_BYTES} bytes", field="key")
    if "\\" in key:
        raise InvalidInput(f"{key!r} contains a backslash; parts are separated by '/'", field="key")
    for part in parts:
        if not part:
            raise InvalidInput(f"{key!r} has an empty part; no leading, trailing or double '/'", field="key")
        if part in (".", ".."):
            raise InvalidInput(f"{key!r} contains the part {part!r}", field="key")
        if part.startswith(TEMPORARY_PREFIX):
            raise InvalidInput(f"{key!r}: names starting with {TEMPORARY_PREFIX!r} are reserved", field="key")
        if len(part.encode()) > MAX_PART_BYTES:
            raise InvalidInput(f"a part of {key[:60]!r} is longer than {MAX_PART_BYTES} bytes", field="key")


def _local_folder(url: str) -> Path:
    if not url:
        raise InvalidInput("give file:///folder, a path, or s3://bucket/prefix", field="store_url")
    if url.startswith("file://"):
        parsed = urlsplit(url)
        if parsed.netloc not in ("", "localhost") or not parsed.path or parsed.query or parsed.fragment:
            raise InvalidInput(
                f"{url!r} is not file:///folder (three slashes, absolute path)", field="store_url"
            )
        return Path(unquote(parsed.path))
    if "://" in url:
        scheme = url.partition("://")[0]
        raise InvalidInput(
            f"{scheme}:// is no store; use file:///folder or s3://bucket/prefix", field="store_url"
        )
    return Path(url).expanduser()
