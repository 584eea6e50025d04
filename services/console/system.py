"""The page of the system: workers, queue, store, versions, and what `doctor` finds where the console runs."""

import asyncio
import platform
from collections import Counter

import grpc
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

import stablerep
from services.console.context import Console, page
from services.console.jobs import live_jobs
from services.console.visitors import Visitor
from stablerep.doctor import check_machine
from stablerep.queue.connection import shown


@page
async def show_system(request: Request, console: Console, visitor: Visitor) -> Response:
    workers, (jobs, more) = await asyncio.gather(visitor.client.list_workers(), live_jobs(visitor.client))
    findings = await asyncio.to_thread(lambda: list(check_machine()))
    data = {
        "workers": workers,
        "images_per_second": sum(worker.images_per_second for worker in workers),
        "queue": {
            "jobs": dict(Counter(job.state.value for job in jobs)),
            "waiting": sum(job.counts.pending for job in jobs),
            "leased": sum(job.counts.leased for job in jobs),
            "dead": sum(job.counts.dead for job in jobs),
            "of_more_jobs": bool(more),
        },
        "gateway": console.settings.console.gateway,
        "store": console.store.url,
        "redis": shown(console.settings.redis_url),
        "versions": {
            "stablerep": stablerep.__version__,
            "python": platform.python_version(),
            "grpcio": grpc.__version__,
        },
        "findings": findings,
    }
    return console.render.page(request, "system.html", data)


ROUTES = [Route("/system", show_system)]
