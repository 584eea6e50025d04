"""The pages of sweeps: each one's figure and numbers as they stand in the store, while it goes on."""

import asyncio
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.console.context import Console, page
from services.console.stored import SweepFile, parse
from services.console.visitors import Visitor
from stablerep.config.names import check_dataset
from stablerep.errors import NotFound
from stablerep.shards.layout import SWEEPS, sweep_key
from stablerep.storage.json_objects import read_json

_IMAGE_POLICY = "default-src 'none'; style-src 'unsafe-inline'; sandbox"
"""Of a figure: it styles itself, and does nothing else."""


@page
async def show_sweeps(request: Request, console: Console, visitor: Visitor) -> Response:
    names = await asyncio.to_thread(
        lambda: sorted({name.rpartition(".")[0] for name in console.store.children(SWEEPS) if "." in name})
    )
    return console.render.page(request, "sweeps.html", {"sweeps": names})


@page
async def show_sweep(request: Request, console: Console, visitor: Visitor) -> Response:
    name = request.path_params["name"]
    content = await asyncio.to_thread(_read, console, name)
    found = parse(SweepFile, content, name)
    data = {
        "name": name,
        "sweep": content,
        "measured": sum(bool(point.scores) for point in found.points),
        "points": len(found.points),
    }
    return console.render.page(request, "sweep.html", data, found=found)


@page
async def send_figure(request: Request, console: Console, visitor: Visitor) -> Response:
    key = sweep_key(check_dataset(request.path_params["name"]), "svg")
    figure = await asyncio.to_thread(console.store.get, key)
    headers = {"content-security-policy": _IMAGE_POLICY, "cache-control": "no-cache"}
    return Response(figure, media_type="image/svg+xml", headers=headers)


def _read(console: Console, name: str) -> dict[str, Any]:
    try:
        return read_json(console.store, sweep_key(check_dataset(name), "json"))
    except NotFound:
        raise NotFound(f"there is no sweep {name} in the store") from None


ROUTES = [
    Route("/sweeps", show_sweeps),
    Route("/sweeps/{name}", show_sweep),
    Route("/figures/{name}", send_figure),
]
