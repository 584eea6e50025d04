"""The gallery: datasets as groups of images, one group large and made again, two datasets side by side."""

import asyncio
import hashlib
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.console.context import Console, action, page
from services.console.datasets import Place
from services.console.spread import feature_spread_of, pixel_spread_of
from services.console.visitors import Visitor
from services.console.workers import make_group
from stablerep.errors import InvalidInput, NotFound, TornObject
from stablerep.shards import DatasetInfo, Group, recipe_of

PAGE = 24
"""Groups; their images come by a few range reads."""
LISTED = 200
SKIPPED = 200
CHOICES = 200
"""Runs, of whose features a spread can be asked for; others by `?run=`."""


@dataclass(frozen=True)
class Shown:
    """A group as pages and their twins have it: its images have addresses of their own."""

    caption_id: int
    caption: str
    images: int
    info: dict[str, Any]
    flags: list[str]
    """What its maker noted against it."""


@page
async def show_datasets(request: Request, console: Console, visitor: Visitor) -> Response:
    names = await asyncio.to_thread(console.datasets.names)
    first = _whole(request, "from")
    shown = names[first : first + LISTED]
    infos = await asyncio.gather(*(asyncio.to_thread(_info, console, name) for name in shown))
    data = {
        "datasets": [{"name": name, "info": info} for name, info in zip(shown, infos, strict=True)],
        "count": len(names),
        "following": first + LISTED if first + LISTED < len(names) else None,
    }
    return console.render.page(request, "datasets.html", data)


@page
async def show_dataset(request: Request, console: Console, visitor: Visitor) -> Response:
    name, query = request.path_params["name"], request.query_params.get("q", "").strip()[:200]
    first, beside = _whole(request, "from"), request.query_params.get("beside", "").strip()
    data = await asyncio.to_thread(_dataset, console, name, query, first)
    if beside and data["groups"]:
        ids = [one["group"].caption_id for one in data["groups"]]
        captions = [one["group"].caption for one in data["groups"]]
        others = await asyncio.to_thread(_beside, console, beside, ids, captions)
        for one, other in zip(data["groups"], others, strict=True):
            one["twin"] = other
    data |= {"beside": beside, "other": await asyncio.to_thread(_info, console, beside) if beside else None}
    return console.render.page(request, "dataset.html", _without_bytes(data), first=first)


@page
async def show_skipped(request: Request, console: Console, visitor: Visitor) -> Response:
    name = request.path_params["name"]
    dataset = await asyncio.to_thread(console.datasets.open, name)
    found = await asyncio.to_thread(dataset.skipped, SKIPPED)
    data = {"name": name, "skipped": [{"shard": shard, "caption": one} for shard, one in found]}
    return console.render.page(request, "skipped.html", data, most=SKIPPED)


@page
async def show_group(request: Request, console: Console, visitor: Visitor) -> Response:
    run = request.query_params.get("run", "").strip()
    data = await asyncio.to_thread(_group, console, request, run)
    found, _ = await visitor.client.runs.list_page(page_size=CHOICES)
    runs = [one.run for one in found if one.result and not one.probe]
    return console.render.page(request, "group.html", _without_bytes(data), runs=runs)


@page
async def send_image(request: Request, console: Console, visitor: Visitor) -> Response:
    name, caption_id = request.path_params["name"], request.path_params["caption_id"]
    group = await asyncio.to_thread(console.datasets.group, name, caption_id)
    place = request.path_params["place"]
    if not 0 <= place < len(group.encoded):
        raise NotFound(f"caption {caption_id} of {name} has {len(group.encoded)} images")
    content = group.encoded[place]
    etag = f'"{hashlib.sha256(content).hexdigest()[:32]}"'
    headers = {"etag": etag, "cache-control": "private, max-age=300"}
    if request.headers.get("if-none-match") == etag:
        return Response(status_code=304, headers=headers)
    return Response(content, media_type="image/jpeg", headers=headers)


@action
async def remake(request: Request, console: Console, visitor: Visitor) -> Response:
    console.limits.check("preview", visitor.token)
    name, caption_id = request.path_params["name"], request.path_params["caption_id"]
    info = await asyncio.to_thread(console.datasets.info, name)
    if info is None:
        raise InvalidInput(f"{name} was not made by a job, so that nothing says how", field="dataset")
    recipe = recipe_of(info).model_dump()
    group = await asyncio.to_thread(console.datasets.group, name, caption_id)
    made = await make_group(
        console, visitor, group.caption, recipe=recipe, seed=info.job_seed, caption_id=caption_id
    )
    equal = [one == two for one, two in zip(group.encoded, made.images, strict=False)]
    data = {
        "name": name,
        "caption_id": caption_id,
        "caption": group.caption,
        "equal": equal + [False] * (len(group.encoded) - len(equal)),
        "worker": made.worker,
        "seconds": made.seconds,
        "smaller_batch": "batch_images" in group.info,
        "packed": recipe["layout"] == "packed",
        "compiled": group.info.get("compiled"),
    }
    return console.render.page(request, "remade.html", data, images=made.images)


def _dataset(console: Console, name: str, query: str, first: int) -> dict[str, Any]:
    dataset = console.datasets.open(name)
    if not len(dataset) and console.datasets.info(name) is None:
        raise NotFound(f"there is no dataset {name}")
    searched: int | None = None
    if query:
        found = dataset.search(query, first, PAGE)
        places, following, searched = found.places, found.following, found.searched
    else:
        places = list(enumerate(dataset.places(first, PAGE), first))
        following = first + PAGE if first + PAGE < len(dataset) else None
    groups = console.datasets.read(name, [place for _, place in places])
    return {
        "name": name,
        "info": console.datasets.info(name),
        "count": len(dataset),
        "images": dataset.images,
        "shards": dataset.shards,
        "query": query,
        "groups": [
            {"position": position, "shard": place[0], "group": group}
            for (position, place), group in zip(places, groups, strict=True)
        ],
        "following": following,
        "searched": searched,
    }


def _beside(console: Console, name: str, ids: list[int], captions: list[str]) -> list[Group | None]:
    """The groups of the same captions in another dataset."""

    def find(caption_id: int) -> Place | None:
        try:
            return console.datasets.find(name, caption_id)
        except (NotFound, InvalidInput):
            return None

    console.datasets.open(name)
    places = list(console.datasets.readers.map(find, ids))
    read = iter(console.datasets.read(name, [place for place in places if place is not None]))
    groups = [next(read) if place is not None else None for place in places]
    return [
        group if group is not None and group.caption == caption else None
        for group, caption in zip(groups, captions, strict=True)
    ]


def _group(console: Console, request: Request, run: str) -> dict[str, Any]:
    name, caption_id = request.path_params["name"], request.path_params["caption_id"]
    shard, place = console.datasets.find(name, caption_id)
    group = console.datasets.read(name, [(shard, place)])[0]
    info = console.datasets.info(name)
    chosen = min(max(_whole(request, "image"), 0), len(group.encoded) - 1)
    seeds = group.info.get("seeds")
    return {
        "name": name,
        "group": group,
        "shard": shard,
        "info": info,
        "image": chosen,
        "seed": seeds[chosen] if isinstance(seeds, list) and chosen < len(seeds) else None,
        "sha256": [hashlib.sha256(data).hexdigest() for data in group.encoded],
        "pixel_spread": pixel_spread_of(group),
        "run": run,
        "feature_spread": feature_spread_of(group, console.store, run) if run else None,
        "url_of_dataset": f"{console.store.url}/datasets/{name}",
    }


def _info(console: Console, name: str) -> DatasetInfo | None:
    """None, too, for one that this version cannot read: the list shows the others."""
    try:
        return console.datasets.info(name)
    except (TornObject, InvalidInput):
        return None


def _without_bytes(data: dict[str, Any]) -> dict[str, Any]:
    """The same, with groups as their facts: images have addresses of their own."""

    def plain(value: Any) -> Any:
        if isinstance(value, Group):
            flags = _flags(value.info)
            return Shown(value.caption_id, value.caption, len(value.encoded), value.info, flags)
        if isinstance(value, dict):
            return {key: plain(one) for key, one in value.items()}
        return [plain(one) for one in value] if isinstance(value, list) else value

    return {key: plain(value) for key, value in data.items()}


def _flags(info: dict[str, Any]) -> list[str]:
    found = []
    if info.get("truncated") is True:
        found.append("the text encoder read only the beginning")
    if isinstance(info.get("batch_images"), int):
        found.append(f"made in a smaller batch, of {info['batch_images']} images, for want of memory")
    return found


def _whole(request: Request, name: str) -> int:
    text = request.query_params.get(name, "0")
    return min(int(text), 10**15) if text.isascii() and text.isdigit() else 0


ROUTES = [
    Route("/datasets", show_datasets),
    Route("/datasets/{name}", show_dataset),
    Route("/datasets/{name}/skipped", show_skipped),
    Route("/datasets/{name}/captions/{caption_id:int}", show_group),
    Route("/datasets/{name}/captions/{caption_id:int}/{place:int}.jpg", send_image),
    Route("/datasets/{name}/captions/{caption_id:int}/remake", remake, methods=["POST"]),
]
