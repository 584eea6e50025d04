"""What all pages share: settings, store, visitors, templates, and the streams of pages that are open."""

from collections.abc import Awaitable, Callable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import wraps
from typing import Any

from starlette.requests import Request
from starlette.responses import Response

from services.console.datasets import Datasets
from services.console.history import History
from services.console.limits import Limits
from services.console.pages import Renderer
from services.console.sessions import CSRF_FIELD, check_csrf, check_origin
from services.console.streams import Hub
from services.console.visitors import Visitor, Visitors
from stablerep.config.settings import Settings
from stablerep.errors import InvalidInput, Unavailable
from stablerep.storage import Store

FORM_BYTES = 1 << 20
"""What a form may hold besides a file."""


@dataclass
class Console:
    settings: Settings
    store: Store
    visitors: Visitors
    render: Renderer
    datasets: Datasets
    hub: Hub = field(default_factory=Hub)
    history: History = field(default_factory=History)
    limits: Limits = field(default_factory=Limits)


Handler = Callable[[Request, Console, Visitor], Awaitable[Any]]


def console_of(request: Request) -> Console:
    found: Console = request.app.state.console
    return found


def stream(handler: Handler, *, checked: bool = False) -> Callable[[Request], Awaitable[Response]]:
    """What goes on while the gateway is away; `checked`: whether the visitor may read is known."""

    @wraps(handler)
    async def answer(request: Request) -> Response:
        console = console_of(request)
        visitor = console.visitors.identify(request)
        request.scope["session"] = visitor.session
        if not checked:
            with suppress(Unavailable):  # which the stream says itself
                await console.visitors.check_reader(visitor)
        response: Response = await handler(request, console, visitor)
        if visitor.fresh and visitor.session is not None:
            console.visitors.sessions.write(request, response, visitor.session)
        return response

    return answer


def page(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """A page for visitors whom the gateway lets read: what it says, and what the store holds."""

    async def for_readers(request: Request, console: Console, visitor: Visitor) -> Any:
        await console.visitors.check_reader(visitor)
        return await handler(request, console, visitor)

    return stream(wraps(handler)(for_readers), checked=True)


def action(handler: Handler) -> Callable[[Request], Awaitable[Response]]:
    """What changes something: only from the console's own forms, or from a script with a token."""

    async def from_here(request: Request, console: Console, visitor: Visitor) -> Any:
        check_size(request, console.settings.console.upload_limit_bytes)
        if visitor.session is not None:
            check_origin(request)
            form = await request.form(max_files=1, max_fields=100)
            check_csrf(visitor.session, str(form.get(CSRF_FIELD, "")))
        return await handler(request, console, visitor)

    return page(wraps(handler)(from_here))


def check_size(request: Request, limit: int) -> None:
    """Raises InvalidInput for what is larger than a form with a file of `limit` bytes."""
    length = request.headers.get("content-length", "")
    if not length.isdigit():
        raise InvalidInput("send the header Content-Length", field="file")
    if int(length) > limit + FORM_BYTES:
        text = f"this page takes files of at most {limit:,} bytes; `stablerep submit` takes larger ones"
        raise InvalidInput(text, field="file")


async def fields(request: Request) -> dict[str, str]:
    """The texts of a form that was sent."""
    form = await request.form()
    return {key: value.strip() for key, value in form.items() if isinstance(value, str)}
