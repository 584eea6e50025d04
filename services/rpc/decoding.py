"""Requests that are no messages of our protos: an INVALID_ARGUMENT, where gRPC itself would say UNKNOWN."""

from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import DecodeError

from stablerep.errors import InvalidInput


@dataclass(frozen=True)
class Undecodable:
    """What stands in for a request that could not be decoded, up to where errors become statuses."""

    problem: str


def tolerant(decode: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """`decode`, giving an `Undecodable` where it would raise."""

    def read(data: bytes) -> Any:
        try:
            return decode(data)
        except DecodeError as error:
            return Undecodable(str(error))

    return read


def decoded(request: Any) -> Any:
    """The request itself, or, of a stream, its messages as they come. Raises InvalidInput."""
    if hasattr(request, "__aiter__"):
        return _decoded_messages(request)
    if isinstance(request, Undecodable):
        raise InvalidInput(f"the request cannot be decoded: {request.problem}")
    return request


async def _decoded_messages(requests: AsyncIterator[Any]) -> AsyncIterator[Any]:
    async for message in requests:
        yield decoded(message)
