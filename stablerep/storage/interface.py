"""The object store: the small interface that everything writes through.

Two implementations stand behind it, `LocalStore` (a folder) and `S3Store` (S3 or MinIO). Both promise: an
object appears whole or not at all, `put(..., if_absent=True)` lets one writer win, listing is in key order.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Protocol, TypeVar

from pydantic import SecretStr

T = TypeVar("T")
BATCH = 512  # objects of `put_many` that are in memory at a time


@dataclass(frozen=True)
class ObjectInfo:
    """An object as a listing shows it; `etag` changes whenever the object is written with other bytes."""

    key: str
    size: int
    etag: str


class S3Access(Protocol):
    """How to reach an S3 server; `stablerep.config.settings.S3` is one such object."""

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


def batches(things: Iterable[T], size: int = BATCH) -> Iterator[tuple[T, ...]]:
    """The things in tuples of `size`, the last one shorter."""
    remaining = iter(things)
    while batch := tuple(islice(remaining, size)):
        yield batch
