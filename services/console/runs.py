"""The pages of runs: curves, several in one plot, what probes measured, logs, and starting one."""

import asyncio
import json
import math
from collections.abc import AsyncIterator, Iterable
from itertools import islice
from typing import Any

from markupsafe import escape
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.console.charts import Bar, Line, bar_chart, line_chart
from services.console.context import Console, action, fields, page, stream
from services.console.forms import settings, whole
from services.console.maps import maps_of
from services.console.streams import events
from services.console.visitors import Visitor
from stablerep.client import AsyncClient, Run, RunMetrics
from stablerep.config.names import check_run
from stablerep.errors import AlreadyExists, InvalidInput, NotFound, TornObject
from stablerep.runs.config import presets
from stablerep.shards.layout import run_key
from stablerep.storage.json_objects import read_json

LISTED = 500
"""Runs on a page: by name from page to page, on each the latest first."""
_ASKED = ("name", "datasets", "preset", "nodes", "gpus", "settings")
COMPARED = 8
LOG_LINES = 200
LOG_SECONDS = 2.0
"""Until the log of a run that has printed nothing is asked for again."""
LOG_TRIES = 5
"""For the log of a run that is over."""
CHARTS = (
    ("loss", "Loss"),
    ("loss_above_floor", "Loss above its floor"),
    ("learning_rate", "Learning rate"),
    ("views_per_second", "Views per second"),
    ("data_wait", "Share of the time waiting for data"),
    ("effective_rank", "Effective rank of the features"),
    ("gradient_norm", "Gradient norm"),
)
"""The metrics that have a chart, and what is written above it; online probes have one each besides."""


@page
async def show_runs(request: Request, console: Console, visitor: Visitor) -> Response:
    token = request.query_params.get("page", "")
    found, more = await visitor.client.runs.list_page(page_size=LISTED, page_token=token)
    runs = sorted(found, key=lambda run: (run.done, -_created(run), run.run))
    return console.render.page(request, "runs.html", {"runs": runs, "more": more}, token=token)


@page
async def compare_runs(request: Request, console: Console, visitor: Visitor) -> Response:
    names = list(dict.fromkeys(request.query_params.getlist("run")))[:COMPARED]
    if not names:
        raise InvalidInput("choose runs to compare", field="run")
    found = await asyncio.gather(*(_latest(visitor.client, name) for name in names))
    records = await asyncio.to_thread(_records, console, names)
    data = {
        "runs": [run for run, _ in found],
        "metrics": {run.run: [{"step": m.step, **m.values} for m in metrics] for run, metrics in found},
        "probes": records,
    }
    charts = _charts({run.run: metrics for run, metrics in found})
    return console.render.page(request, "compare.html", data, charts=charts, bars=_bars(records))


@page
async def show_run(request: Request, console: Console, visitor: Visitor) -> Response:
    name = request.path_params["name"]
    run, metrics = await _latest(visitor.client, name)
    records = await asyncio.to_thread(_records, console, [name])
    maps = await asyncio.to_thread(maps_of, console, name)
    data = {
        "run": run,
        "maps": maps,
        "metrics": [{"step": one.step, **one.values} for one in metrics],
        "probes": records,
    }
    charts = console.render.fragment("_charts.html", charts=_charts({run.run: metrics}))
    log = await _log(visitor.client, name)
    return console.render.page(request, "run.html", data, charts=charts, bars=_bars(records), log=log)


@stream
async def follow_run(request: Request, console: Console, visitor: Visitor) -> Response:
    name = request.path_params["name"]

    async def source() -> AsyncIterator[tuple[Run, list[RunMetrics]]]:
        known: list[RunMetrics] = []
        async for run, metrics in visitor.client.runs.watch(name):
            if metrics:  # a run that was resumed logs steps anew
                known = [*(one for one in known if one.step < metrics[0].step), *metrics]
            yield run, known

    def show(value: tuple[Run, list[RunMetrics]]) -> dict[str, str]:
        run, metrics = value
        session = visitor.session
        return {
            "run": console.render.fragment("_run.html", run=run, csrf=session.csrf if session else ""),
            "charts": console.render.fragment("_charts.html", charts=_charts({run.run: metrics})),
        }

    return events(console.hub.follow(("run", visitor.token, name), source), show)


@stream
async def follow_log(request: Request, console: Console, visitor: Visitor) -> Response:
    name = request.path_params["name"]

    async def source() -> AsyncIterator[str]:
        kept, tries = "", LOG_TRIES
        while tries:
            try:
                async for text in visitor.client.runs.logs(name, lines=LOG_LINES, follow=True):
                    kept = "".join((kept + text).splitlines(keepends=True)[-LOG_LINES:])
                    yield kept
            except NotFound:  # nothing is kept yet; the next call says if there is no such run
                pass
            if (await visitor.client.runs.get(name)).done:
                if kept:
                    return
                tries -= 1  # the last lines are stored a little after the end
            await asyncio.sleep(LOG_SECONDS)
            kept = ""

    def show(text: str) -> dict[str, str]:
        return {"log": str(escape(text)).replace("\n", "&#10;")}

    return events(console.hub.follow(("log", visitor.token, name), source), show)


@page
async def show_form(request: Request, console: Console, visitor: Visitor) -> Response:
    asked = {key: request.query_params.get(key, "") for key in _ASKED}
    return _form(request, console, {**asked, "preset": asked["preset"] or "demo"})


@action
async def start(request: Request, console: Console, visitor: Visitor) -> Response:
    asked = await fields(request)
    try:
        run = await visitor.client.runs.train(
            asked.get("name", ""),
            asked.get("datasets", "").replace(",", " ").split(),
            preset=_preset(asked.get("preset", "")),
            config=settings(asked.get("settings", "")),
            gpus_per_node=whole(asked, "gpus"),
            nodes=whole(asked, "nodes"),
        )
    except (InvalidInput, AlreadyExists) as error:
        return _form(request, console, {key: asked.get(key, "") for key in _ASKED}, str(error))
    return console.render.done(request, f"/runs/{run.run}", {"run": run})


@action
async def measure(request: Request, console: Console, visitor: Visitor) -> Response:
    """Starts a probe of a run's export."""
    asked = await fields(request)
    name = request.path_params["name"]
    data = asked.get("data", "").replace(",", " ").split()
    probe = await visitor.client.runs.probe(asked.get("name", ""), f"runs/{name}", data)
    return console.render.done(request, f"/runs/{probe.run}", {"run": probe})


@action
async def act(request: Request, console: Console, visitor: Visitor) -> Response:
    name, verb, runs = request.path_params["name"], request.path_params["verb"], visitor.client.runs
    if verb == "delete":
        if (await fields(request)).get("confirm") != name:
            raise InvalidInput(f"write {name} to delete the run", field="confirm")
        count = await runs.delete(name, force=True)
        return console.render.done(request, "/runs", {"objects_deleted": count})
    steps = {"cancel": runs.cancel, "resume": runs.resume}
    if verb not in steps:
        raise NotFound(f"a run has no {verb[:20]!r}")
    run = await steps[verb](name)
    return console.render.done(request, f"/runs/{run.run}", {"run": run})


def _form(request: Request, console: Console, asked: dict[str, str], problem: str = "") -> Response:
    """The form of a run, with what was written into it and what is wrong with that."""
    data = {"presets": presets(), "asked": asked, "problem": problem}
    return console.render.page(request, "train.html", data, status=422 if problem else 200)


async def _latest(client: AsyncClient, name: str) -> tuple[Run, tuple[RunMetrics, ...]]:
    """The run and all its metrics so far."""
    async for run, metrics in client.runs.watch(name):
        return run, metrics
    raise NotFound(f"there is no run {name}")


async def _log(client: AsyncClient, name: str) -> str:
    """The end of what its first machine printed; empty where nothing of it is kept."""
    try:
        return "".join([text async for text in client.runs.logs(name, lines=LOG_LINES)])
    except NotFound:
        return ""


def _created(run: Run) -> float:
    return run.create_time.timestamp() if run.create_time else 0.0


def _charts(runs: dict[str, Iterable[RunMetrics]]) -> list[str]:
    """A chart for each metric that any of the runs has; probes while training have one each."""
    kept = {run: list(metrics) for run, metrics in runs.items()}
    probes = sorted(
        {key for all_ in kept.values() for m in all_ for key in m.values if key.startswith("probe_")}
    )
    wanted = [
        *CHARTS,
        *((key, f"Online probe: {key.removeprefix('probe_').replace('_', ' ')}") for key in probes),
    ]
    charts = []
    for key, title in wanted:
        lines = [
            Line(run, [(float(m.step), m.values[key]) for m in metrics if key in m.values])
            for run, metrics in kept.items()
        ]
        shown = [line for line in lines if line.points]
        charts.append(line_chart(title, shown, x_format=lambda step: f"{step:,.0f}"))
    return [chart for chart in charts if chart]


def _records(console: Console, runs: list[str]) -> list[dict[str, Any]]:
    """What probes measured of these runs, as their records say."""
    found = []
    for run in runs:
        for entry in islice(console.store.list(run_key(check_run(run), "probes/")), 100):
            try:
                record = read_json(console.store, entry.key)
                scores = {
                    str(name): {k: _finite(s[k]) for k in ("value", "low", "high")}
                    for name, s in record["scores"].items()
                }
                kept = {key: record[key] for key in ("data", "data_digest", "protocol", "settings", "time")}
            except (ValueError, KeyError, TypeError, AttributeError, NotFound, TornObject):
                continue  # not a record of this version
            found.append({"run": run, **kept, "scores": scores})
    return found


def _finite(value: Any) -> float:
    number = float(value)
    if not math.isfinite(number):
        raise ValueError("no number")
    return number


def _bars(records: list[dict[str, Any]]) -> list[dict[str, str]]:
    """A chart for each score of each protocol; what was measured otherwise is never in one chart."""
    alike: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        key = json.dumps([record["data_digest"], record["protocol"], record["settings"]], sort_keys=True)
        alike.setdefault(key, []).append(record)
    charts = []
    for group in alike.values():
        first = group[0]
        for score in first["scores"]:
            bars = [Bar(one["run"], **one["scores"][score]) for one in group if score in one["scores"]]
            title = f"{first['data']}, {first['protocol']}: {score}"
            charts.append({"chart": bar_chart(title, sorted(bars, key=lambda bar: -bar.value))})
    return charts


def _preset(name: str) -> str:
    """Only a preset: the client would take another text for a file on this machine."""
    if name not in presets():
        raise InvalidInput(f"no preset {name[:80]!r}", field="preset")
    return name


ROUTES = [
    Route("/runs", show_runs),
    Route("/runs", start, methods=["POST"]),
    Route("/compare", compare_runs),
    Route("/train", show_form),
    Route("/runs/{name}", show_run),
    Route("/runs/{name}/probe", measure, methods=["POST"]),
    Route("/runs/{name}/{verb}", act, methods=["POST"]),
    Route("/events/runs/{name}", follow_run),
    Route("/events/runs/{name}/log", follow_log),
]
