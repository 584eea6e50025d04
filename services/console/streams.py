"""Server-sent events: one look at the gateway for all open pages that show the same, and their streams."""

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable, Hashable
from dataclasses import dataclass, field
from typing import Any

from markupsafe import escape
from starlette.responses import StreamingResponse

from stablerep.errors import NotFound, PermissionDenied, StableRepError, Unauthenticated

logger = logging.getLogger("stablerep.console")

AGAIN_SECONDS = 2.0
"""After the gateway did not answer."""
ALIVE_SECONDS = 15.0
"""A comment is sent when nothing was for so long, so that no proxy takes the stream for dead."""
Source = Callable[[], AsyncIterator[Any]]


@dataclass(frozen=True)
class Away:
    """In place of a value: the gateway does not answer, and why."""

    why: str


@dataclass
class _Channel:
    task: asyncio.Task[None] | None = None
    latest: Any = None
    changed: asyncio.Event = field(default_factory=asyncio.Event)
    number: int = 0
    readers: int = 0
    over: bool = False

    def put(self, value: Any) -> None:
        self.latest = value
        self.number += 1
        self.changed.set()
        self.changed = asyncio.Event()


class Hub:
    """Sources that are read once, however many pages follow them."""

    def __init__(self) -> None:
        self._channels: dict[Hashable, _Channel] = {}

    async def follow(self, key: Hashable, source: Source) -> AsyncIterator[Any]:
        """The latest value of a source, now and at every change, `Away` meanwhile; None: nothing for a while.

        Ends when the source does. Raises what says that this visitor may not, or that there is no such thing.
        """
        channel = self._channels.get(key)
        if channel is None:
            channel = self._channels[key] = _Channel()
            channel.task = asyncio.create_task(self._read(key, channel, source))
        channel.readers += 1
        seen = 0
        try:
            while True:
                changed = channel.changed
                if channel.number != seen:
                    seen = channel.number
                    if isinstance(channel.latest, StableRepError):
                        raise channel.latest
                    yield channel.latest
                    continue
                if channel.over:
                    return
                try:
                    await asyncio.wait_for(changed.wait(), ALIVE_SECONDS)
                except TimeoutError:
                    yield None
        finally:
            channel.readers -= 1
            if not channel.readers and channel.task is not None:
                channel.task.cancel()
                if self._channels.get(key) is channel:
                    del self._channels[key]

    async def _read(self, key: Hashable, channel: _Channel, source: Source) -> None:
        try:
            while True:
                try:
                    async for value in source():
                        if value != channel.latest:
                            channel.put(value)
                    return
                except (NotFound, PermissionDenied, Unauthenticated) as error:
                    channel.put(error)
                    return
                except StableRepError as error:
                    channel.put(Away(str(error)))
                    await asyncio.sleep(AGAIN_SECONDS)
        finally:
            channel.over = True
            channel.changed.set()
            if self._channels.get(key) is channel:
                del self._channels[key]


def events(values: AsyncIterator[Any], show: Callable[[Any], dict[str, str]]) -> Any:
    """A stream of what `show` makes of each value: the fragment of a page by the event's name."""

    async def lines() -> AsyncIterator[str]:
        yield "retry: 2000\n\n"
        sent: dict[str, str] = {}
        last = time.monotonic()
        try:
            async for value in values:
                if time.monotonic() - last >= ALIVE_SECONDS:
                    last = time.monotonic()
                    yield ": nothing new\n\n"
                if value is None:
                    continue
                away = value.why if isinstance(value, Away) else ""
                parts = {"away": away and f"The gateway does not answer; asking again. ({away[:300]})"}
                if not away:
                    parts |= show(value)
                for name, text in parts.items():
                    text = _escape(text) if name == "away" else text
                    if sent.get(name) != text:
                        sent[name] = text
                        last = time.monotonic()
                        yield _event(name, text)
            yield _event("over", "over")
        except StableRepError as error:
            yield _event("away", _escape(str(error)))
            yield _event("over", "over")

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(lines(), media_type="text/event-stream", headers=headers)


def _event(name: str, text: str) -> str:
    data = "".join(f"data: {line}\n" for line in (text or " ").splitlines())
    return f"event: {name}\n{data}\n"


def _escape(text: str) -> str:
    return str(escape(text))
