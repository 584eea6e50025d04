"""The pages of jobs: what runs, one job with its shards, and what can be done to it."""

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from services.console.charts import progress_chart
from services.console.context import Console, action, fields, page, stream
from services.console.streams import events
from services.console.visitors import Visitor
from stablerep.client import AsyncClient, Job, Shard
from stablerep.errors import InvalidInput, NotFound

LIVE, OVER = 40, 25
"""Jobs on one page, that are not over and that are: each costs the gateway about a millisecond."""
SHARDS = 100
POLL_SECONDS = 2.0
_SHARE = 40
"""A list is asked for again after so many times the seconds that it took: 2.5 % of the gateway's time."""


async def live_jobs(client: AsyncClient, token: str = "") -> tuple[list[Job], str]:
    """A page of the jobs that are not over, whose turn is next first, and the token of the next page."""
    jobs, following = await client.list_jobs_page(live=True, page_size=LIVE, page_token=token)
    return sorted(jobs, key=lambda job: (job.jobs_ahead, -job.priority, job.name)), following


def row(console: Console, job: Job) -> dict[str, Any]:
    """A job as the table shows it."""
    console.history.note(job)
    return {"job": job, "images_per_second": console.history.images_per_second(job)}


@page
async def show_jobs(request: Request, console: Console, visitor: Visitor) -> Response:
    tokens = {kind: request.query_params.get(kind, "") for kind in ("live", "over")}
    (live, more_live), (over, more_over) = await asyncio.gather(
        live_jobs(visitor.client, tokens["live"]),
        visitor.client.list_jobs_page(live=False, page_size=OVER, page_token=tokens["over"]),
    )
    data = {
        "live": [row(console, job) for job in live],
        "over": over,
        "more_live": more_live,
        "more_over": more_over,
    }
    return console.render.page(request, "jobs.html", data, tokens=tokens)


@stream
async def follow_jobs(request: Request, console: Console, visitor: Visitor) -> Response:
    token = request.query_params.get("live", "")

    async def source() -> AsyncIterator[list[Job]]:
        while True:
            began = time.monotonic()
            yield (await live_jobs(visitor.client, token))[0]
            await asyncio.sleep(max(POLL_SECONDS, _SHARE * (time.monotonic() - began)))

    def show(jobs: list[Job]) -> dict[str, str]:
        rows = [row(console, job) for job in jobs]
        return {"jobs": console.render.fragment("_jobs.html", live=rows)}

    return events(console.hub.follow(("jobs", visitor.token, token), source), show)


@page
async def show_job(request: Request, console: Console, visitor: Visitor) -> Response:
    job = await visitor.client.get_job(request.path_params["name"])
    state = request.query_params.get("state", "DEAD" if job.counts.dead else "LEASED")
    shards = await _shards(visitor.client, job, state)
    data = {**_facts(console, job), "shards": shards, "state": state}
    return console.render.page(request, "job.html", data, chart=_chart(console, job))


@stream
async def follow_job(request: Request, console: Console, visitor: Visitor) -> Response:
    name = request.path_params["name"]

    async def source() -> AsyncIterator[Job]:
        async for job in visitor.client.watch_job(name):
            yield job

    def show(job: Job) -> dict[str, str]:
        facts = _facts(console, job)
        session = visitor.session
        return {
            "job": console.render.fragment("_job.html", **facts, csrf=session.csrf if session else ""),
            "chart": _chart(console, job),
        }

    return events(console.hub.follow(("job", visitor.token, name), source), show)


@action
async def act(request: Request, console: Console, visitor: Visitor) -> Response:
    name, verb, client = request.path_params["name"], request.path_params["verb"], visitor.client
    sent = await fields(request)
    if verb == "delete":
        if sent.get("confirm") != name:
            raise InvalidInput(f"write {name} to delete the job", field="confirm")
        count = await client.delete_job(name, delete_data=sent.get("data") == "on", force=True)
        return console.render.done(request, "/jobs", {"objects_deleted": count})
    if verb == "retry":
        shards = [int(number) for number in sent.get("shards", "").split(",") if number.strip().isdigit()]
        job = await client.retry_job(name, shards)
    else:
        steps = {"pause": client.pause_job, "resume": client.resume_job, "cancel": client.cancel_job}
        if verb not in steps:
            raise NotFound(f"a job has no {verb[:20]!r}")
        job = await steps[verb](name)
    return console.render.done(request, f"/jobs/{job.dataset}", {"job": job})


def _facts(console: Console, job: Job) -> dict[str, Any]:
    return row(console, job)


def _chart(console: Console, job: Job) -> str:
    return progress_chart(console.history.points(job))


async def _shards(client: AsyncClient, job: Job, state: str) -> list[Shard]:
    found: list[Shard] = []
    async for shard in client.list_shards(job.name, state or None, page_size=SHARDS):
        found.append(shard)
        if len(found) == SHARDS:
            break
    return found


ROUTES = [
    Route("/jobs", show_jobs, name="jobs"),
    Route("/events/jobs", follow_jobs),
    Route("/jobs/{name}", show_job),
    Route("/events/jobs/{name}", follow_job),
    Route("/jobs/{name}/{verb:str}", act, methods=["POST"]),
]
