"""The web application: its routes, what every answer carries, and how errors are told."""

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib import resources
from typing import Any
from urllib.parse import quote

from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.trustedhost import TrustedHostMiddleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.routing import Mount, Route
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from services.console import gallery, jobs, maps, runs, submit, sweeps, system
from services.console.context import Console, check_size, console_of, fields
from services.console.pages import TWIN, wants_json
from services.console.sessions import CSRF_FIELD, Session, check_csrf, check_origin
from services.console.visitors import Visitor
from stablerep.errors import (
    AlreadyExists,
    InvalidInput,
    NotFound,
    PermissionDenied,
    StableRepError,
    StoreError,
    Unauthenticated,
    Unavailable,
    WrongState,
)

logger = logging.getLogger("stablerep.console")

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "referrer-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(), microphone=(), geolocation=()",
}
STATUS: tuple[tuple[type[StableRepError], int], ...] = (
    (Unauthenticated, 401),
    (PermissionDenied, 403),
    (NotFound, 404),
    (AlreadyExists, 409),
    (WrongState, 409),
    (InvalidInput, 400),
    (Unavailable, 503),
    (StoreError, 502),
)
LOOPBACK_NAMES = ("localhost", "127.0.0.1", "[::1]")


class _Outside:
    """Around everything: the prefix of a proxy, the addresses of JSON twins, and headers of every answer."""

    def __init__(self, app: ASGIApp, prefix: str) -> None:
        self._app, self._prefix = app, prefix

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = str(scope["path"])
        if self._prefix and (path == self._prefix or path.startswith(f"{self._prefix}/")):
            path = path.removeprefix(self._prefix) or "/"
        twin = path.endswith(TWIN) and not path.startswith("/static/")
        path = path.removesuffix("/") if path.endswith(f"{TWIN}/") else path
        scope = {**scope, "path": path.removesuffix(TWIN) if twin else path, "twin": twin}

        async def with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
                headers.setdefault("cache-control", "no-store")
                if scope["scheme"] == "https":  # without, browsers ignore it, and say so
                    headers.setdefault("cross-origin-opener-policy", "same-origin")
            await send(message)

        await self._app(scope, receive, with_headers)


def build_app(console: Console, *, hosts: tuple[str, ...]) -> Starlette:
    """The application; `hosts` are the names by which it may be asked for, none: any."""

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        yield
        await console.visitors.close()

    middleware = [Middleware(_Outside, prefix=console.render.prefix)]
    if hosts:
        middleware.append(Middleware(TrustedHostMiddleware, allowed_hosts=list(hosts)))
    app = Starlette(
        routes=[
            Route("/", _home),
            Route("/healthz", _healthy),
            Route("/sign-in", _show_sign_in),
            Route("/sign-in", _sign_in, methods=["POST"]),
            Route("/sign-out", _sign_out, methods=["POST"]),
            *submit.ROUTES,
            *jobs.ROUTES,
            *gallery.ROUTES,
            *runs.ROUTES,
            *maps.ROUTES,
            *sweeps.ROUTES,
            *system.ROUTES,
            Mount("/static", _Static(directory=str(resources.files("services.console") / "static"))),
        ],
        middleware=middleware,
        exception_handlers={StableRepError: _failed, HTTPException: _not_served, Exception: _broken},
        lifespan=lifespan,
    )
    app.state.console = console
    return app


class _Static(StaticFiles):
    """Files that come with the package, which a browser may keep for an hour."""

    def file_response(self, *arguments: Any, **more: Any) -> Response:
        response = super().file_response(*arguments, **more)
        response.headers["cache-control"] = "public, max-age=3600"
        return response


async def _home(request: Request) -> Response:
    return RedirectResponse(console_of(request).render.url("/jobs"), 303)


async def _healthy(request: Request) -> Response:
    return PlainTextResponse("ok\n")


async def _show_sign_in(request: Request) -> Response:
    return _sign_in_page(request, "")


async def _sign_in(request: Request) -> Response:
    """Takes a token that the gateway takes."""
    console = console_of(request)
    check_origin(request)
    check_size(request, 0)
    session = console.visitors.sessions.read(request)
    asked = await fields(request)
    if session is None:
        return _sign_in_page(request, "The page was too old to sign in from; try again.")
    check_csrf(session, asked.get(CSRF_FIELD, ""))
    token = asked.get("token", "")
    try:
        if not token:
            raise Unauthenticated("paste a token")
        console.visitors.forget(token)
        request.scope["session"] = signed = Session(token)
        await console.visitors.check_reader(Visitor(console.visitors.client(token), token, signed))
    except (Unauthenticated, PermissionDenied, InvalidInput) as error:
        console.limits.check("failed sign-in", request.client.host if request.client else "")
        return _sign_in_page(request, str(error))
    target = asked.get("next", "")
    path = target if target.startswith("/") and not target.startswith(("//", "/\\")) else "/jobs"
    response = RedirectResponse(console.render.url(path), 303)
    console.visitors.sessions.write(request, response, signed)
    return response


async def _sign_out(request: Request) -> Response:
    console = console_of(request)
    check_origin(request)
    session = console.visitors.sessions.read(request)
    if session is not None:
        check_csrf(session, (await fields(request)).get(CSRF_FIELD, ""))
    response = RedirectResponse(console.render.url("/sign-in"), 303)
    console.visitors.sessions.forget(response)
    return response


def _sign_in_page(request: Request, problem: str) -> Response:
    """The form, with the secret of the browser's own session, so that no other page grows old."""
    console = console_of(request)
    session = console.visitors.sessions.read(request) or Session()
    request.scope["session"] = session
    target = request.query_params.get("next", "")
    response = console.render.page(
        request, "sign_in.html", {"problem": problem}, status=401 if problem else 200, target=target
    )
    console.visitors.sessions.write(request, response, session)
    return response


async def _failed(request: Request, error: Exception) -> Response:
    """What an error says, on a page or as JSON; who has to sign in is led there."""
    console = console_of(request)
    assert isinstance(error, StableRepError)
    status = next((status for kind, status in STATUS if isinstance(error, kind)), 500)
    if status >= 500 and status != 503:
        logger.error("%s %s: %s", request.method, request.url.path, error)
    if status == 401 and not wants_json(request) and not request.headers.get("authorization"):
        if "/events/" in request.url.path:
            return PlainTextResponse("sign in\n", 401)
        path = request.scope["path"] + (f"?{request.url.query}" if request.url.query else "")
        target = f"?next={quote(path)}" if request.method == "GET" else ""
        return RedirectResponse(console.render.url("/sign-in") + target, 303)
    data = {"error": str(error), "kind": type(error).__name__, "status": status}
    again = status == 503 and request.method == "GET"
    return console.render.page(request, "error.html", data, status=status, again=again)


async def _broken(request: Request, error: Exception) -> Response:
    """An error that nobody foresaw, which the server logs: the page says where to look."""
    text = "the console failed here; its log says how, and a report of it is welcome"
    data = {"error": text, "kind": "Unexpected", "status": 500}
    return console_of(request).render.page(request, "error.html", data, status=500, again=False)


async def _not_served(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    data = {"error": error.detail, "kind": "HTTP", "status": error.status_code}
    render = console_of(request).render
    response = render.page(request, "error.html", data, status=error.status_code, again=False)
    response.headers.update(error.headers or {})
    return response
