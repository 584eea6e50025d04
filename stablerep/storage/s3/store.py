"""A store in an S3 bucket (AWS, MinIO and alike), through the `minio` client."""

import io
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from heapq import heappush, heappushpop
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from stablerep.errors import InvalidInput, NotFound, StableRepError, StoreRefused, TornObject
from stablerep.storage.interface import ObjectInfo, S3Access, batches
from stablerep.storage.keys import TEMPORARY_PREFIX, check_folder, check_key, check_prefix

try:
    import urllib3
    from minio import Minio
    from minio.datatypes import Object
    from minio.deleteobjects import DeleteObject
    from minio.error import MinioException, S3Error

    from stablerep.storage.s3.client import CONNECTIONS, Access, Connection, check_access, connect
    from stablerep.storage.s3.create import create, prove_exclusive
    from stablerep.storage.s3.errors import MISSING_CODES, Refused, named
except ModuleNotFoundError as error:
    raise InvalidInput(
        "s3:// needs the S3 client: pip install 'stablerep[serve]'", field="store_url"
    ) from error

T = TypeVar("T")
TRIES = 4
PART_BYTES = 16 << 20  # larger objects are sent in parts of this size
MOST_DELETED = 1000  # objects in one request, by the protocol
PAGE = 1000  # names in one answer to a listing, by the protocol


def open_s3(url: str, access: S3Access | None) -> "S3Store":
    """The store at `s3://bucket/prefix`; without `access`, by the settings. Raises InvalidInput."""
    parsed = urlsplit(url)
    bucket, prefix = parsed.netloc, parsed.path.strip("/")
    if not re.fullmatch(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]", bucket) or parsed.query or parsed.fragment:
        raise InvalidInput(
            f"{url!r} is not s3://bucket/prefix (bucket: 3-63 of a-z, 0-9, '-', '.')", field="store_url"
        )
    if prefix:
        check_key(prefix)
    return S3Store(bucket, prefix, check_access(_from_settings() if access is None else access))


class S3Store:
    """Keys are objects of one bucket below a prefix. Safe for many threads, and after a fork."""

    def __init__(self, bucket: str, prefix: str, access: Access) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self._access = access
        self._below = f"{prefix}/" if prefix else ""
        self._connection: Connection | None = None

    @property
    def url(self) -> str:
        return f"s3://{self.bucket}/{self.prefix}" if self.prefix else f"s3://{self.bucket}"

    def __repr__(self) -> str:
        return f"S3Store({self.url!r} at {self._access.endpoint})"

    def __getstate__(self) -> dict[str, object]:
        return {**self.__dict__, "_connection": None}

    def get(self, key: str) -> bytes:
        return self._read(key, 0, None)

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        if offset < 0 or length < 0:
            raise InvalidInput(f"offset {offset} and length {length} must not be negative", field="range")
        if length == 0:  # HTTP has no empty range
            info = self.stat(key)
            if info is None:
                raise NotFound(f"there is no object {key}")
            data, end = b"", min(info.size, offset)
        else:
            data = self._read(key, offset, length)
            end = offset + len(data)
        if end != offset + length:
            raise TornObject(f"{key} ends before byte {offset + length}")
        return data

    def put(self, key: str, data: bytes | Path, *, if_absent: bool = False) -> bool:
        name = self._name(key)
        if isinstance(data, Path) and not data.is_file():
            raise InvalidInput(f"{data} is not a file", field="data")
        send = self._create if if_absent else self._replace
        with self._errors(key):
            try:
                return send(name, data)
            except (S3Error, Refused) as error:
                if error.code != "NoSuchBucket":
                    raise
            self._make_bucket()
            return send(name, data)

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> int:
        count = 0
        with ThreadPoolExecutor(CONNECTIONS) as writers:
            for batch in batches(objects):
                count += sum(writers.map(lambda pair: self.put(*pair), batch))
        return count

    def stat(self, key: str) -> ObjectInfo | None:
        name = self._name(key)
        try:
            with self._errors(key):
                found = self._minio().stat_object(self.bucket, name)
        except NotFound:
            return None
        return _info(key, found)

    def exists(self, key: str) -> bool:
        return self.stat(key) is not None

    def list(self, prefix: str = "") -> Iterator[ObjectInfo]:
        full = self._below + check_prefix(prefix)
        try:
            with self._errors(prefix or self.url):
                for found in self._minio().list_objects(self.bucket, prefix=full or None, recursive=True):
                    name = found.object_name or ""
                    if not _is_hidden(name):
                        yield ObjectInfo(
                            name.removeprefix(self._below), found.size or 0, (found.etag or "").strip('"')
                        )
        except NotFound:  # no bucket yet
            return

    def children(self, prefix: str = "") -> Iterator[str]:
        full = self._below + check_folder(prefix)
        return _in_order(self._children(prefix, full))

    def _children(self, prefix: str, full: str) -> Iterator[str]:
        try:
            with self._errors(prefix or self.url):
                for found in self._minio().list_objects(self.bucket, prefix=full or None, recursive=False):
                    name = (found.object_name or "").removeprefix(full)  # "": a folder's own marker
                    if name.endswith("/") or not _is_hidden(name):
                        yield name
        except NotFound:  # no bucket yet
            return

    def delete(self, key: str) -> None:
        name = self._name(key)
        try:
            with self._errors(key):
                self._minio().remove_object(self.bucket, name)
        except NotFound:
            return

    def delete_many(self, keys: Iterable[str]) -> int:
        count = 0
        for batch in batches((self._name(key) for key in keys), MOST_DELETED):
            self._delete_batch(batch)
            count += len(batch)
        return count

    def _delete_batch(self, names: Sequence[str]) -> None:
        which = f"{names[0].removeprefix(self._below)} and {len(names) - 1} more"
        with suppress(NotFound), self._errors(which):
            for error in self._minio().remove_objects(self.bucket, map(DeleteObject, names)):
                if error.code not in MISSING_CODES:
                    raise Refused(0, error.code or "", error.message or "")

    def _name(self, key: str) -> str:
        return self._below + check_key(key)

    def _connect(self) -> Connection:
        """The client of this process; created again after a fork or a refusal by the server."""
        connection = self._connection
        if connection is None or connection.pid != os.getpid():
            connection = self._connection = connect(self._access)
        return connection

    def _minio(self) -> Minio:
        return self._connect().client

    def _read(self, key: str, offset: int, length: int | None) -> bytes:
        name = self._name(key)

        def once() -> bytes:
            response = self._minio().get_object(self.bucket, name, offset=offset, length=length or 0)
            try:
                return response.read()
            finally:
                response.close()
                response.release_conn()

        with self._errors(key):
            return _again_if_broken(once)

    def _replace(self, name: str, data: bytes | Path) -> bool:
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        with data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as body:
            self._minio().put_object(self.bucket, name, body, size, part_size=PART_BYTES)
        return True

    def _create(self, name: str, data: bytes | Path) -> bool:
        connection = self._connect()
        prove_exclusive(connection, self._access.endpoint, self.bucket, self._below)
        return create(connection, self.bucket, name, data)

    def _make_bucket(self) -> None:
        try:
            self._minio().make_bucket(self.bucket)
        except S3Error as error:  # another process was faster
            if error.code not in ("BucketAlreadyOwnedByYou", "BucketAlreadyExists"):
                raise

    @contextmanager
    def _errors(self, key: str) -> Iterator[None]:
        """Turns what the client raises into the errors of this library, naming object and server."""
        try:
            yield
        except StableRepError:
            raise
        except (MinioException, Refused, urllib3.exceptions.HTTPError, OSError) as error:
            found = named(error, key=key, url=self.url, endpoint=self._access.endpoint)
            if isinstance(found, StoreRefused):
                self._connection = None  # the next one looks its credentials up again
            raise found from error


def _is_hidden(name: str) -> bool:
    """Folder markers of other tools, and leftovers of a proof of exclusive creation."""
    last = name.rpartition("/")[2]
    return not last or last.startswith(TEMPORARY_PREFIX)


def _in_order(names: Iterator[str]) -> Iterator[str]:
    """Sorts what a server sends in pages, in each page files before folders, without keeping it all."""
    waiting: list[str] = []
    for name in names:
        if len(waiting) < PAGE:
            heappush(waiting, name)
        else:
            yield heappushpop(waiting, name)
    yield from sorted(waiting)


def _info(key: str, found: Object) -> ObjectInfo:
    return ObjectInfo(key, found.size or 0, (found.etag or "").strip('"'))


def _from_settings() -> S3Access:
    from stablerep.config.settings import load_settings

    return load_settings().s3


def _again_if_broken(read: Callable[[], T]) -> T:
    """Tries again what broke off while its body came; urllib3 itself retries only up to the headers."""
    for attempt in range(TRIES - 1):
        try:
            return read()
        except (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError):
            time.sleep(0.1 * 2**attempt)
    return read()
