"""Spooling a client's caption file into part objects of the store, and telling how far it has come.

`uploads/<id>/000000.part`, `000001.part`, ... hold the bytes in order; `upload.json`, written last, makes the
upload complete. A part is created only if absent, so of two clients that send at once one is turned away.
"""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass

from services.rpc.errors import NotReady, WrongOffset
from stablerep.config.names import check_upload_id
from stablerep.errors import InvalidInput, NotFound, TornObject
from stablerep.shards.layout import upload_key, upload_part_key, upload_prefix
from stablerep.storage.interface import Store
from stablerep.v1 import generation_pb2 as pb

MAX_MESSAGE_BYTES = 2 << 20
PART_BYTES = 8 << 20
PART_SECONDS = 5.0
"""A slow client's bytes are stored at least so often, so that a broken stream loses little."""
IDLE_SECONDS = 60.0
"""A stream that sends nothing for so long is ended; it can be resumed."""
MAX_FILE_NAME = 255


@dataclass(frozen=True)
class Upload:
    """What is stored: `parts` objects of `size` bytes together."""

    upload_id: str
    parts: int = 0
    size: int = 0
    complete: bool = False
    file_name: str = ""

    def message(self) -> pb.Upload:
        return pb.Upload(
            upload_id=self.upload_id, size=self.size, complete=self.complete, file_name=self.file_name
        )


def find_upload(store: Store, upload_id: str) -> Upload:
    """What is stored of an upload; zero parts where nothing is.

    Raises:
        InvalidInput: such a name no upload can have.
    """
    check_upload_id(upload_id)
    try:
        facts = json.loads(store.get(upload_key(upload_id)))
        return Upload(upload_id, facts["parts"], facts["size"], True, facts["file_name"])
    except NotFound:
        pass
    except (ValueError, TypeError, KeyError) as error:
        raise TornObject(f"{upload_key(upload_id)} in {store.url} cannot be read: {error}") from error
    parts = size = 0
    for info in store.list(upload_prefix(upload_id)):
        if info.key == upload_part_key(upload_id, parts):
            parts += 1
            size += info.size
    return Upload(upload_id, parts, size)


def complete_upload(store: Store, upload_id: str) -> Upload:
    """The finished upload that a job may read.

    Raises:
        InvalidInput: such a name no upload can have.
        NotFound: nothing was uploaded under it.
        NotReady: its last piece is missing.
    """
    upload = find_upload(store, upload_id)
    if not upload.complete and not upload.parts:
        raise NotFound(f"there is no upload {upload_id}")
    if not upload.complete:
        raise NotReady(
            f"upload {upload_id} is not complete, {upload.size} bytes are stored", field="upload_id"
        )
    return upload


async def receive_upload(
    store: Store, requests: AsyncIterator[pb.UploadCaptionsRequest], *, limit_bytes: int
) -> Upload:
    """Stores one stream of pieces; returns what is stored when it ends.

    Raises:
        InvalidInput: a field of a message, which is named.
        WrongOffset: the stream does not begin where the stored bytes end.
        NotReady: another client sends the same upload at this moment.
    """
    first = await _next(requests)
    if first is None:
        raise InvalidInput("the stream holds no message", field="upload_id")
    _check_first(first)
    upload = await asyncio.to_thread(find_upload, store, first.upload_id)
    if first.offset != upload.size:
        text = f"{first.offset} is not where the stored {upload.size} bytes end; go on there"
        raise WrongOffset(text, stored=upload.size)
    if upload.complete:
        if first.data:
            raise NotReady(f"upload {upload.upload_id} is complete already", field="upload_id")
        return upload
    spool = _Spool(store, upload, limit_bytes)
    message: pb.UploadCaptionsRequest | None = first
    while message is not None:
        _check_piece(message, first=message is first)
        await spool.add(message.data)
        if message.last:
            return await spool.finish(first.file_name)
        message = await _next(requests)
    await spool.flush()
    return spool.upload


class _Spool:
    """Bytes received and not yet stored, and where the next part goes."""

    def __init__(self, store: Store, upload: Upload, limit_bytes: int) -> None:
        self.upload = upload
        self._store = store
        self._limit = limit_bytes
        self._buffer = bytearray()
        self._since = time.monotonic()

    async def add(self, data: bytes) -> None:
        if self.upload.size + len(self._buffer) + len(data) > self._limit:
            raise InvalidInput(f"an upload may hold at most {self._limit} bytes", field="data")
        self._buffer += data
        if len(self._buffer) >= PART_BYTES or time.monotonic() - self._since > PART_SECONDS:
            await self.flush()

    async def flush(self) -> None:
        if self._buffer:
            part, data = self.upload.parts, bytes(self._buffer)
            key = upload_part_key(self.upload.upload_id, part)
            if not await asyncio.to_thread(self._store.put, key, data, if_absent=True):
                raise NotReady("another client is sending this upload; go on where it got to", field="offset")
            self.upload = Upload(self.upload.upload_id, part + 1, self.upload.size + len(data))
            self._buffer.clear()
        self._since = time.monotonic()

    async def finish(self, file_name: str) -> Upload:
        await self.flush()
        upload = self.upload
        if not upload.size:
            raise InvalidInput("the file is empty", field="data")
        facts = {"file_name": file_name, "parts": upload.parts, "size": upload.size}
        key, data = upload_key(upload.upload_id), json.dumps(facts, sort_keys=True).encode()
        await asyncio.to_thread(self._store.put, key, data)
        return Upload(upload.upload_id, upload.parts, upload.size, True, file_name)


async def _next(requests: AsyncIterator[pb.UploadCaptionsRequest]) -> pb.UploadCaptionsRequest | None:
    try:
        async with asyncio.timeout(IDLE_SECONDS):
            return await anext(requests, None)
    except TimeoutError:
        raise NotReady(f"nothing came for {IDLE_SECONDS:.0f} s; resume the upload", field="data") from None


def _check_first(message: pb.UploadCaptionsRequest) -> None:
    check_upload_id(message.upload_id)
    name = message.file_name
    bare = name.isprintable() and not {"/", "\\"} & set(name)
    if not name or not bare or len(name.encode()) > MAX_FILE_NAME:
        raise InvalidInput(f"{name[:80]!r} is no bare file name of at most 255 bytes", field="file_name")


def _check_piece(message: pb.UploadCaptionsRequest, *, first: bool) -> None:
    if len(message.data) > MAX_MESSAGE_BYTES:
        raise InvalidInput(f"a message carries at most {MAX_MESSAGE_BYTES} bytes", field="data")
    for field in ("upload_id", "file_name", "offset"):
        if not first and getattr(message, field):
            raise InvalidInput("stands in the first message only", field=field)
