"""Who looks: a visitor's token, the gateway's client that acts for it, and whether it may read the store."""

import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from starlette.requests import Request

from services.console.sessions import Session, Sessions
from stablerep.client import AsyncClient
from stablerep.errors import Unauthenticated

MAX_CLIENTS = 64
READ_SECONDS = 30.0
"""How long a token that may read is taken for one that still may."""


@dataclass(frozen=True)
class Visitor:
    """A browser or a script, with the client that carries its token.

    `session` is a browser's; `fresh`: it does not have it yet.
    """

    client: AsyncClient
    token: str
    session: Session | None
    fresh: bool = False


class Visitors:
    """Clients by token; `anonymous` visitors are let through to the gateway, which says what they may.

    `connect` makes the client of a token.
    """

    def __init__(
        self, sessions: Sessions, connect: Callable[[str | None], AsyncClient], *, anonymous: bool
    ) -> None:
        self.sessions = sessions
        self._connect, self._anonymous = connect, anonymous
        self._clients: OrderedDict[str, AsyncClient] = OrderedDict()
        self._may_read: dict[str, float] = {}

    def client(self, token: str) -> AsyncClient:
        """The client that sends this token, or none. Raises InvalidInput for what is no token."""
        client = self._clients.get(token)
        if client is None:
            client = self._clients[token] = self._connect(token or None)
            while len(self._clients) > MAX_CLIENTS:  # watches through it go on; its channel ends with them
                self._clients.popitem(last=False)
        self._clients.move_to_end(token)
        return client

    def identify(self, request: Request) -> Visitor:
        """Who sent a request. Raises Unauthenticated where a visitor has to sign in first."""
        header = request.headers.get("authorization", "")
        if header.lower().startswith("bearer "):
            token = header[7:].strip()
            return Visitor(self.client(token), token, None)
        session = self.sessions.read(request)
        if session is None or not session.token:
            if not self._anonymous:
                raise Unauthenticated("sign in with a token")
            if session is None:
                return Visitor(self.client(""), "", Session(), fresh=True)
        return Visitor(self.client(session.token), session.token, session)

    async def check_reader(self, visitor: Visitor) -> None:
        """Raises what the gateway does for a visitor that may not read; the store is read on its word."""
        if time.monotonic() < self._may_read.get(visitor.token, 0.0):
            return
        async for _ in visitor.client.list_jobs(page_size=1):
            break
        if len(self._may_read) > 4 * MAX_CLIENTS:
            self._may_read.clear()
        self._may_read[visitor.token] = time.monotonic() + READ_SECONDS

    def forget(self, token: str) -> None:
        """Asks the gateway again the next time."""
        self._may_read.pop(token, None)

    async def close(self) -> None:
        for client in self._clients.values():
            await client.close()
