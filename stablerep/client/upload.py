"""Sending a caption file in order and in pieces, from wherever the gateway has got to."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

from stablerep.errors import DeadlineExceeded, InvalidInput, Unavailable
from stablerep.v1 import generation_pb2 as pb

Progress = Callable[[int, int], None]
"""Called with bytes sent so far and bytes of the file."""

PIECE_BYTES = 1 << 20
"""Half of what a message may carry."""


def upload_id(path: Path) -> str:
    """Named by content and file name: the same file is the same upload, however often it is sent."""
    with path.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256")
    digest.update(path.name.encode())
    return f"c{digest.hexdigest()[:40]}"


def may_resume(error: Exception) -> bool:
    """Whether an upload should ask where to go on: the gateway was away, or another client sent a piece."""
    if isinstance(error, DeadlineExceeded):
        return False
    return isinstance(error, Unavailable) or (isinstance(error, InvalidInput) and error.field == "offset")


def upload_messages(
    path: Path, identifier: str, offset: int, progress: Progress | None
) -> Iterator[pb.UploadCaptionsRequest]:
    """The stream of one upload, from `offset` to the end of the file.

    It is checked here, before the call: what goes wrong inside a stream of requests loses its message.

    Raises:
        InvalidInput: the file is empty, or shorter than what is stored already.
    """
    total = path.stat().st_size
    if not total:
        raise InvalidInput(f"{path} is empty", field="captions")
    if offset > total:
        raise InvalidInput(f"{path} holds {total} bytes, but {offset} are stored already", field="captions")
    first = pb.UploadCaptionsRequest(upload_id=identifier, file_name=path.name, offset=offset)
    return _pieces(path, first, total, progress)


def _pieces(
    path: Path, message: pb.UploadCaptionsRequest, total: int, progress: Progress | None
) -> Iterator[pb.UploadCaptionsRequest]:
    offset = message.offset
    with path.open("rb") as file:
        file.seek(offset)
        while True:
            message.data = file.read(PIECE_BYTES)
            offset += len(message.data)
            message.last = offset >= total or not message.data
            yield message
            if progress is not None:
                progress(offset, total)
            if message.last:
                return
            message = pb.UploadCaptionsRequest()
