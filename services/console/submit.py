"""Submitting a job: captions sent or named, what is understood of them, a preview, an estimate."""

import asyncio
import base64
import shutil
import tempfile
from dataclasses import asdict
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from starlette.datastructures import UploadFile
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.console.context import Console, action, fields, page
from services.console.forms import settings, whole
from services.console.visitors import Visitor
from services.console.workers import Made, make_group
from stablerep.captions import FORMATS, Description
from stablerep.config.recipe import Preset, Recipe, load, preset_names
from stablerep.errors import AlreadyExists, InvalidInput
from stablerep.jobs.estimate import REPORTED_SECONDS, Figure, estimate_job, images_in_batches, reported_speed

PREVIEWS = 2
"""Groups of the first captions."""
_ASKED = ("source", "format", "column", "header", "name", "preset", "settings", "seed", "priority", "limit")
_HEADERS = {"": None, "yes": True, "no": False}


@page
async def show_form(request: Request, console: Console, visitor: Visitor) -> Response:
    asked = {key: request.query_params.get(key, "") for key in _ASKED}
    asked["preset"] = asked["preset"] or "tiny"
    return await _review(request, console, visitor, asked, [])


@action
async def check(request: Request, console: Console, visitor: Visitor) -> Response:
    """Takes the file, or the name of one, and goes on to what is understood of it."""
    console.limits.check("upload", visitor.token)
    asked = await fields(request)
    sent = (await request.form()).get("file")
    if isinstance(sent, UploadFile) and sent.filename:
        asked["source"] = await _upload(visitor, sent)
    elif not asked.get("source"):
        raise InvalidInput("choose a caption file, or name an object of the store or a URL", field="captions")
    kept = {key: asked[key] for key in _ASKED if asked.get(key)}
    return console.render.done(request, f"/submit?{urlencode(kept)}", kept)


@action
async def preview(request: Request, console: Console, visitor: Visitor) -> Response:
    """Two groups of the first captions, made by a worker now, and the estimate by their pace."""
    console.limits.check("preview", visitor.token)
    asked = await fields(request)
    asked = {key: asked.get(key, "") for key in _ASKED}
    found = await _describe(visitor, asked)
    chosen = _preset(asked)
    made = []
    for caption in found.first[:PREVIEWS] if found else ():
        recipe = chosen.recipe.model_dump()
        group = await make_group(console, visitor, caption, recipe=recipe, seed=whole(asked, "seed"))
        made.append((caption, group))
    return await _review(request, console, visitor, asked, made)


@action
async def create(request: Request, console: Console, visitor: Visitor) -> Response:
    sent = await fields(request)
    asked = {key: sent.get(key, "") for key in _ASKED}
    try:
        job = await visitor.client.create_job(
            asked["name"],
            _source(asked),
            preset=asked["preset"],
            recipe=settings(asked["settings"]),
            seed=whole(asked, "seed"),
            priority=whole(asked, "priority"),
            limit=whole(asked, "limit"),
            format=asked["format"],
            column=asked["column"],
            header=_HEADERS.get(asked["header"]),
        )
    except (InvalidInput, AlreadyExists) as error:
        return await _review(request, console, visitor, asked, [], str(error))
    return console.render.done(request, f"/jobs/{job.dataset}", {"job": job})


async def _review(
    request: Request,
    console: Console,
    visitor: Visitor,
    asked: dict[str, str],
    made: list[tuple[str, Made]],
    problem: str = "",
) -> Response:
    """The form, with what is known so far; what is wrong with it stands on the page."""
    found, estimate = None, None
    try:
        found = await _describe(visitor, asked)
        if found is not None:
            estimate = _estimate(asked, found, made)
    except InvalidInput as error:
        problem = problem or str(error)
    shown = [
        {"caption": caption, "images": [base64.b64encode(image).decode() for image in group.images]}
        for caption, group in made
    ]
    data = {
        "asked": asked,
        "description": found,
        "report": asdict(found.report) if found else None,
        "estimate": estimate,
        "problem": problem,
    }
    return console.render.page(
        request,
        "submit.html",
        data,
        previews=shown,
        presets=preset_names(),
        formats=FORMATS,
        recipe=_recipe(asked),
        status=422 if problem else 200,
    )


async def _upload(visitor: Visitor, sent: UploadFile) -> str:
    """Hands the file on to the gateway, under its own name, which says its format."""
    name = Path(sent.filename or "").name
    if not name or not name.isprintable() or len(name) > 200:
        raise InvalidInput("the file needs a name of at most 200 printable characters", field="file")
    with tempfile.TemporaryDirectory(prefix="stablerep-console-") as folder:
        path = Path(folder) / name
        with path.open("wb") as file:
            await asyncio.to_thread(shutil.copyfileobj, sent.file, file, 1 << 20)
        return f"upload:{await visitor.client.upload_captions(path)}"


async def _describe(visitor: Visitor, asked: dict[str, str]) -> Description | None:
    if not asked.get("source"):
        return None
    return await visitor.client.describe_captions(
        _source(asked),
        format=asked["format"],
        column=asked["column"],
        header=_HEADERS.get(asked["header"]),
    )


def _source(asked: dict[str, str]) -> str:
    source = asked.get("source", "")
    if not source.startswith(("upload:", "store:")) and "://" not in source:
        raise InvalidInput(f"{source[:80]!r} is no store:KEY or URL", field="captions")
    return source


def _preset(asked: dict[str, str]) -> Preset:
    if asked["preset"] not in preset_names():
        raise InvalidInput(f"no preset {asked['preset'][:80]!r}", field="preset")
    return load(asked["preset"], settings(asked["settings"]))


def _recipe(asked: dict[str, str]) -> Recipe | None:
    try:
        return _preset(asked).recipe
    except InvalidInput:
        return None


def _estimate(asked: dict[str, str], found: Description, made: list[tuple[str, Made]]) -> dict[str, Any]:
    """The cost, by the pace of the last preview if there is one; `at_least`: not all captions were read."""
    preset = _preset(asked)
    captions = found.report.captions
    limit = whole(asked, "limit")
    speed, image_bytes = reported_speed(preset.recipe, next(iter(REPORTED_SECONDS))), None
    if made:
        group = made[-1][1]
        count = images_in_batches(preset.recipe.images_per_caption, preset.recipe.batch_images)
        speed = Figure(group.seconds / count, f"measured by the preview on {group.worker}")
        size = sum(map(len, group.images)) / len(group.images)
        image_bytes = Figure(size, f"measured on {len(group.images)} images")
    counted = found.whole or 0 < limit <= captions
    count = min(captions, limit) if limit else captions
    estimate = estimate_job(count, preset, speed=speed, image_bytes=image_bytes)
    return {**asdict(estimate), "at_least": not counted, "measured": bool(made)}


ROUTES = [
    Route("/submit", show_form),
    Route("/submit/check", check, methods=["POST"]),
    Route("/submit/preview", preview, methods=["POST"]),
    Route("/jobs", create, methods=["POST"]),
]
