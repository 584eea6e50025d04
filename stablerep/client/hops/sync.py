"""For the blocking client: everything happens in the caller's thread."""

from collections.abc import Callable, Iterator
from time import sleep
from typing import ParamSpec, TypeVar

import grpc

__all__ = ["close_channel", "in_thread", "read_in_thread", "sleep"]

T = TypeVar("T")
P = ParamSpec("P")


def in_thread(function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    return function(*args, **kwargs)


def read_in_thread(messages: Iterator[T]) -> Iterator[T]:
    return messages


def close_channel(channel: grpc.Channel) -> None:
    channel.close()
