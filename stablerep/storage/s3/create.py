"""Create-if-absent on S3: a presigned PUT with `If-None-Match: *`, and the proof that the server honours it.

The client's own `put_object` cannot send that header. A server answers 412 to all writers but the first, and
409 to one that raced another, which then tries again. Servers that ignore the header, or check first and
write later, would silently let two workers overwrite each other's shard. So the first creation of a process
is preceded by a race: several writers create one object at once, and exactly one may succeed.
"""

import io
import secrets
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path

from minio.error import MinioException

from stablerep.errors import StoreRefused, Unavailable
from stablerep.storage.keys import TEMPORARY_PREFIX
from stablerep.storage.s3.client import Connection
from stablerep.storage.s3.errors import Refused, refusal

TRIES = 4
RACERS = 4
SIGNATURE_LIFE = timedelta(minutes=15)  # of a presigned request; what AWS takes as clock skew
_proven: set[tuple[str, str]] = set()  # (endpoint, bucket) pairs that this process has seen honour the header


def create(connection: Connection, bucket: str, name: str, data: bytes | Path) -> bool:
    """Whether this call made the object. Raises Refused, and Unavailable when others keep racing for it."""
    size = data.stat().st_size if isinstance(data, Path) else len(data)
    for attempt in range(TRIES):
        url = connection.client.get_presigned_url("PUT", bucket, name, expires=SIGNATURE_LIFE)
        with data.open("rb") if isinstance(data, Path) else io.BytesIO(data) as body:
            response = connection.pool.request(
                "PUT", url, body=body, headers={"If-None-Match": "*", "Content-Length": str(size)}
            )
        if response.status == 200:
            return True
        if response.status == 412:
            return False
        if response.status != 409:
            raise refusal(response.status, response.data)
        time.sleep(0.1 * 2**attempt)
    raise Unavailable(f"{name}: other writers keep racing for this object; try again")


def prove_exclusive(connection: Connection, endpoint: str, bucket: str, folder: str) -> None:
    """Once a process and bucket: lets RACERS create one object in `folder` ("" or "a/b/") and removes it.

    Raises StoreRefused where the server lets several of them have created it; else as `create`.
    """
    if (endpoint, bucket) in _proven:
        return
    name = f"{folder}{TEMPORARY_PREFIX}{secrets.token_hex(8)}"
    with ThreadPoolExecutor(RACERS) as racers:
        won = sum(racers.map(lambda _: _race(connection, bucket, name), range(RACERS)))
    with suppress(MinioException):  # who may not remove leaves an empty object, which no listing shows
        connection.client.remove_object(bucket, name)
    if won > 1:
        raise StoreRefused(
            f"{endpoint} let {won} concurrent writers create one object: it does not "
            "honour `If-None-Match: *`, without which two workers would overwrite each other's shards; use a "
            "server, or a version of it, that does (docs/stores.md)"
        )
    if won == 0:
        raise Unavailable(f"{endpoint} refused all {RACERS} concurrent writers of a new object; try again")
    _proven.add((endpoint, bucket))


def _race(connection: Connection, bucket: str, name: str) -> bool:
    try:
        return create(connection, bucket, name, b"")
    except Refused as error:
        if error.status not in (400, 501):  # a server that knows the header but does not support it
            raise
        raise StoreRefused(
            f"the server cannot create an object only if it is absent ({error.code}: {error.message}); use "
            "one that honours `If-None-Match: *` (docs/stores.md)"
        ) from error
