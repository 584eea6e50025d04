"""A method's handler with something before and after it, whatever kind of call it is."""

import inspect
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, aclosing
from typing import Any

import grpc

Around = Callable[[Any, grpc.aio.ServicerContext], AbstractAsyncContextManager[Any]]
"""From the request, or a stream of them, to a context that gives what the handler gets."""


def wrapped(handler: Any, around: Around) -> Any:
    """The handler inside `around`, entered when a call begins and left when it ends, however it ends."""
    kind = f"{_word(handler.request_streaming)}_{_word(handler.response_streaming)}"
    behaviour = getattr(handler, kind)

    async def stream(request: Any, context: grpc.aio.ServicerContext) -> AsyncIterator[Any]:
        async with around(request, context) as given, aclosing(behaviour(given, context)) as messages:
            async for message in messages:
                yield message

    async def call(request: Any, context: grpc.aio.ServicerContext) -> Any:
        async with around(request, context) as given:
            return await behaviour(given, context)

    # gRPC looks at which kind of function it is; a stream may also be written by a coroutine.
    return handler._replace(**{kind: stream if inspect.isasyncgenfunction(behaviour) else call})


def _word(streaming: bool) -> str:
    return "stream" if streaming else "unary"
