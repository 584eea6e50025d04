"""A store in an S3 bucket (AWS, MinIO and alike), through the `minio` client.

Create-if-absent is a presigned PUT with `If-None-Match: *`, which the client's `put_object` cannot send: the
server answers 412 to all writers but the first, and 409 to one that raced another, which then tries again.
"""

import io
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from heapq import heappush, heappushpop
from itertools import islice
from pathlib import Path
from typing import TypeVar
from urllib.parse import urlsplit

from pydantic import SecretStr

from stablerep.errors import InvalidInput, NotFound, StableRepError, StoreError, TornObject, Unavailable
from stablerep.storage.store import ObjectInfo, S3Access, check_folder, check_key, check_prefix

try:
    import urllib3
    from minio import Minio
    from minio.datatypes import Object
    from minio.deleteobjects import DeleteObject
    from minio.error import MinioException, S3Error
except ModuleNotFoundError as error:
    raise InvalidInput(
        "s3:// needs the S3 client: pip install 'stablerep[serve]'", field="store_url"
    ) from error

T = TypeVar("T")
AWS_ENDPOINT = "https://s3.amazonaws.com"
CONNECT_SECONDS = 5.0
READ_SECONDS = 60.0
TRIES = 4
SIGNATURE_LIFE = timedelta(minutes=15)  # of a presigned request; what AWS takes as clock skew
PART_BYTES = 16 << 20  # larger objects are sent in parts of this size
BUSY_CODES = frozenset({"SlowDown", "SlowDownRead", "SlowDownWrite", "ServiceUnavailable", "InternalError",
                        "RequestTimeout", "XMinioServerNotInitialized"})  # fmt: skip
MOST_DELETED = 1000  # objects in one request, by the protocol
PAGE = 1000  # names in one answer to a listing, by the protocol
MISSING_CODES = frozenset({"NoSuchKey", "NoSuchBucket", "NoSuchObject"})


@dataclass(frozen=True)
class _Access:
    """`S3Access` as plain data, which travels to other processes."""

    endpoint: str
    access_key: str
    secret_key: str
    region: str

    def __repr__(self) -> str:
        return f"_Access({self.endpoint!r}, {self.access_key!r}, '***', {self.region!r})"


class _Refused(Exception):
    """As `S3Error`, for a request made without the client."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(code, message)
        self.code = code
        self.message = message


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
    return S3Store(bucket, prefix, _plain(_from_settings() if access is None else access))


class S3Store:
    """Keys are objects of one bucket below a prefix. Safe for many threads, and after a fork."""

    def __init__(self, bucket: str, prefix: str, access: _Access) -> None:
        self.bucket = bucket
        self.prefix = prefix
        self._access = access
        self._endpoint, self._secure = _split_endpoint(access.endpoint)
        self._connection: tuple[int, Minio, urllib3.PoolManager] | None = None

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
            except (S3Error, _Refused) as error:
                if error.code != "NoSuchBucket":
                    raise
            self._make_bucket()
            return send(name, data)

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
        below = f"{self.prefix}/" if self.prefix else ""
        full = below + check_prefix(prefix)
        try:
            with self._errors(prefix or self.url):
                for found in self._minio().list_objects(self.bucket, prefix=full or None, recursive=True):
                    name = found.object_name or ""
                    if not name.endswith("/"):  # folder markers that other tools make
                        yield ObjectInfo(
                            name.removeprefix(below), found.size or 0, (found.etag or "").strip('"')
                        )
        except NotFound:  # no bucket yet
            return

    def children(self, prefix: str = "") -> Iterator[str]:
        below = f"{self.prefix}/" if self.prefix else ""
        full = below + check_folder(prefix)
        return _in_order(self._children(prefix, full))

    def _children(self, prefix: str, full: str) -> Iterator[str]:
        try:
            with self._errors(prefix or self.url):
                for found in self._minio().list_objects(self.bucket, prefix=full or None, recursive=False):
                    name = (found.object_name or "").removeprefix(full)
                    if name:  # else the marker of the folder itself, which other tools make
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
        names = (self._name(key) for key in keys)
        while batch := tuple(islice(names, MOST_DELETED)):
            self._delete_batch(batch)
            count += len(batch)
        return count

    def _delete_batch(self, names: Sequence[str]) -> None:
        below = f"{self.prefix}/" if self.prefix else ""
        with suppress(NotFound), self._errors(f"{names[0].removeprefix(below)} and {len(names) - 1} more"):
            for error in self._minio().remove_objects(self.bucket, map(DeleteObject, names)):
                if error.code not in MISSING_CODES:
                    raise _Refused(error.code or "", error.message or "")

    def _name(self, key: str) -> str:
        return f"{self.prefix}/{check_key(key)}" if self.prefix else check_key(key)

    def _connect(self) -> tuple[int, Minio, urllib3.PoolManager]:
        """The client of this process: sockets inherited through a fork would be read by two."""
        connection = self._connection
        if connection is None or connection[0] != os.getpid():
            pool = urllib3.PoolManager(
                maxsize=16,
                timeout=urllib3.Timeout(connect=CONNECT_SECONDS, read=READ_SECONDS),
                retries=urllib3.Retry(total=3, backoff_factor=0.2, status_forcelist=[500, 502, 503, 504]),
                cert_reqs="CERT_REQUIRED",
                ca_certs=os.environ.get("SSL_CERT_FILE"),
            )
            client = Minio(
                endpoint=self._endpoint,
                access_key=self._access.access_key,
                secret_key=self._access.secret_key,
                region=self._access.region or None,
                secure=self._secure,
                http_client=pool,
            )
            connection = self._connection = (os.getpid(), client, pool)
        return connection

    def _minio(self) -> Minio:
        return self._connect()[1]

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
        size = data.stat().st_size if isinstance(data, Path) else len(data)
        _, client, pool = self._connect()
        for attempt in range(TRIES):
            url = client.get_presigned_url("PUT", self.bucket, name, expires=SIGNATURE_LIFE)
            with data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as body:
                response = pool.request(
                    "PUT", url, body=body, headers={"If-None-Match": "*", "Content-Length": str(size)}
                )
            if response.status == 200:
                return True
            if response.status == 412:
                return False
            if response.status != 409:
                raise _refusal(response.status, response.data)
            time.sleep(0.1 * 2**attempt)
        raise Unavailable(
            f"{name}: other writers kept racing for this object at {self._access.endpoint}; try again"
        )

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
        except (S3Error, _Refused) as error:
            raise self._named(key, error) from error
        except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
            raise Unavailable(
                f"no object store answered at {self._access.endpoint} (for {key}): {_last_line(error)}; "
                "check STABLEREP_S3__ENDPOINT and that the server runs"
            ) from error
        except MinioException as error:
            raise StoreError(
                f"{key}: {self._access.endpoint} gave no S3 answer: {_last_line(error)}"
            ) from error
        except OSError as error:
            raise StoreError(f"{key}: {error}") from error

    def _named(self, key: str, error: S3Error | _Refused) -> StableRepError:
        where = f"{self.url} at {self._access.endpoint}"
        if error.code in MISSING_CODES:
            return NotFound(f"there is no object {key} in {where}")
        if error.code == "InvalidRange":
            return TornObject(f"{key} in {where} ends before the range that was asked for")
        if error.code in BUSY_CODES:
            return Unavailable(f"{where} is busy ({error.code}): {error.message}; try again")
        hint = "; check the access key, the secret key and their policy" if _is_refusal(error.code) else ""
        return StoreError(f"{key}: {where} answered {error.code}: {error.message}{hint}")


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


def _plain(access: S3Access) -> _Access:
    secret = access.secret_key
    secret = secret.get_secret_value() if isinstance(secret, SecretStr) else secret
    for name, value in (("access_key", access.access_key), ("secret_key", secret)):
        if not value:
            variable = f"STABLEREP_S3__{name.upper()}"
            raise InvalidInput(f"an s3:// store needs it; set {variable}", field=f"s3.{name}")
    return _Access(access.endpoint or AWS_ENDPOINT, access.access_key, secret, access.region)


def _from_settings() -> S3Access:
    from stablerep.settings import load_settings

    return load_settings().s3


def _split_endpoint(endpoint: str) -> tuple[str, bool]:
    """`http://host:port` as (host:port, whether by TLS)."""
    parsed = urlsplit(endpoint)
    if parsed.scheme not in ("http", "https") or not parsed.netloc or parsed.path.strip("/") or parsed.query:
        raise InvalidInput(f"{endpoint!r} is not http://host:port or https://host", field="s3.endpoint")
    return parsed.netloc, parsed.scheme == "https"


def _again_if_broken(read: Callable[[], T]) -> T:
    """Tries again what broke off while its body came; urllib3 itself retries only up to the headers."""
    for attempt in range(TRIES - 1):
        try:
            return read()
        except (urllib3.exceptions.ProtocolError, urllib3.exceptions.ReadTimeoutError):
            time.sleep(0.1 * 2**attempt)
    return read()


def _refusal(status: int, body: bytes) -> "_Refused":
    """What a presigned request was answered with, taken from the XML of the answer."""
    code = re.search(rb"<Code>([^<]*)</Code>", body)
    message = re.search(rb"<Message>([^<]*)</Message>", body)
    return _Refused(
        code.group(1).decode(errors="replace") if code else f"HTTP {status}",
        message.group(1).decode(errors="replace") if message else "",
    )


def _is_refusal(code: str | None) -> bool:
    return code in ("AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch")


def _last_line(error: BaseException) -> str:
    if isinstance(error, urllib3.exceptions.MaxRetryError) and error.reason is not None:
        error = error.reason  # its own text has the URL, and with it a signature
    return (str(error).strip().splitlines() or [type(error).__name__])[-1]
