"""For the asyncio client: what may block runs in a thread, so that the loop is not held up."""

import asyncio
from collections.abc import AsyncIterator, Iterator
from typing import TypeVar

import grpc

__all__ = ["close_channel", "in_thread", "read_in_thread", "sleep"]

T = TypeVar("T")
in_thread = asyncio.to_thread
sleep = asyncio.sleep


async def read_in_thread(messages: Iterator[T]) -> AsyncIterator[T]:
    """The messages as they come; each is made in a thread."""
    while (message := await asyncio.to_thread(next, messages, None)) is not None:
        yield message


async def close_channel(channel: grpc.aio.Channel) -> None:
    await channel.close(None)
