"""The embedding map of a run: photographs that its encoder finds alike, and the nearest ones of each."""

import asyncio
import io
from functools import lru_cache

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.console.context import Console, page
from services.console.stored import MapFile, parse
from services.console.visitors import Visitor
from stablerep.config.names import check_run
from stablerep.errors import NotFound, TornObject
from stablerep.shards.layout import map_key, run_key
from stablerep.storage.json_objects import read_json

SIZE, MARGIN = 600, 14
ENLARGED = 112
"""Side of a photograph beside the map, in pixels."""


@page
async def show_map(request: Request, console: Console, visitor: Visitor) -> Response:
    run, data = request.path_params["name"], request.path_params["data"]
    found = await asyncio.to_thread(_read, console, run, data)
    asked = request.query_params.get("photograph", "0")
    chosen = int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 10 else 0
    chosen = min(chosen, len(found.points) - 1)
    shown = [
        {
            "photograph": place,
            "x": round(MARGIN + (x + 1) / 2 * (SIZE - 2 * MARGIN), 1),
            "y": round(MARGIN + (1 - y) / 2 * (SIZE - 2 * MARGIN), 1),
            "label": found.labels[place],
            "name": found.classes[found.labels[place]],
        }
        for place, (x, y) in enumerate(found.points)
    ]
    near = [
        {**shown[place], "same": found.labels[place] == found.labels[chosen]}
        for place in found.neighbours[chosen]
    ]
    own = {"run": run, "photograph": chosen, "near": [one["photograph"] for one in near]}
    return console.render.page(
        request,
        "map.html",
        own | found.model_dump(),
        shown=shown,
        chosen=shown[chosen],
        nearest=near,
        size=SIZE,
    )


@page
async def send_photograph(request: Request, console: Console, visitor: Visitor) -> Response:
    run, data, place = (request.path_params[key] for key in ("name", "data", "place"))
    content = await asyncio.to_thread(_photograph, console, run, data, place)
    headers = {"cache-control": "private, max-age=300"}
    return Response(content, media_type="image/png", headers=headers)


def maps_of(console: Console, run: str) -> list[str]:
    """Names of the photographs of which a run has a map."""
    names = console.store.children(run_key(check_run(run), "maps/"))
    return [name.removesuffix(".json") for name in names if name.endswith(".json")]


def _read(console: Console, run: str, data: str) -> MapFile:
    key = map_key(run, data, "json")
    try:
        return parse(MapFile, read_json(console.store, key), key)
    except NotFound:
        raise NotFound(f"run {run} has no map of {data}: measure it by a probe of the gateway") from None


def _photograph(console: Console, run: str, data: str, place: int) -> bytes:
    found = _read(console, run, data)
    if not 0 <= place < len(found.points):
        raise NotFound(f"the map has {len(found.points)} photographs")
    left, top = place % found.columns * found.side, place // found.columns * found.side
    sheet = _sheet(console.store.get(map_key(run, data, "jpg")))
    buffer = io.BytesIO()
    photograph = sheet.crop((left, top, left + found.side, top + found.side))
    photograph.resize((ENLARGED, ENLARGED), Image.Resampling.NEAREST).save(buffer, "PNG")
    return buffer.getvalue()


@lru_cache(maxsize=4)
def _sheet(content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content), formats=["JPEG"]) as image:
            return image.convert("RGB")
    except (OSError, Image.DecompressionBombError) as error:
        raise TornObject(f"the photographs of a map cannot be read: {error}") from error


ROUTES = [
    Route("/runs/{name}/maps/{data}", show_map),
    Route("/runs/{name}/maps/{data}/{place:int}.png", send_photograph),
]
