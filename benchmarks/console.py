"""The console under load: pages of 1,000 jobs and of 10 million captions, and what 100 open pages cost.

    python -m benchmarks.console                 # writes benchmarks/results/console.json, about 6 minutes
    python -m benchmarks.console --captions 100000 --jobs 50 --seconds 5     # a short look; writes nothing

A real gateway, a real queue server and the console, a process each, over a local folder. The large dataset
has a manifest of all its captions, and tars for the pages that are asked for.
"""

import argparse
import asyncio
import json
import os
import platform
import random
import statistics
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx
import psutil

from benchmarks.imports import hardware
from benchmarks.opening import A_SHARD, IMAGES, write_manifest
from services.console.gallery import PAGE
from stablerep.client import Client
from stablerep.data.corpus.block_files import map_block
from stablerep.data.corpus.rows import Rows
from stablerep.local.services import LocalServices, local_services
from stablerep.shards import Group, build_tar
from stablerep.shards.layout import shard_key
from stablerep.shards.manifest import read_manifest
from stablerep.storage import open_store

RESULT = Path(__file__).parent / "results" / "console.json"
PAGES, OPEN_PAGES = 20, 100


def write_pages(store_url: str, firsts: list[int]) -> None:
    """The tars of the groups of these pages, with members of the lengths that the manifest has."""
    store = open_store(store_url)
    manifest = read_manifest(store, "large")
    shards = {position // A_SHARD for first in firsts for position in range(first, first + PAGE)}
    for shard in sorted(shards):
        entry = manifest.block(shard // 1000)
        if entry is None:
            continue
        rows = Rows(map_block(store, "large", entry), in_manifest=True)
        first = (shard % 1000) * A_SHARD
        groups = []
        for row in range(first, min(first + A_SHARD, len(rows))):
            group = rows.group(row)
            images = tuple(random.randbytes(length) for _, length in group.image_spans)
            bare = len(_json(Group(group.caption_id, group.caption, images, {"pad": ""})))
            pad = "x" * (group.json_span[1] - bare)
            groups.append(Group(group.caption_id, group.caption, images, {"pad": pad}))
        store.put(shard_key("large", shard), build_tar(groups))


def _json(group: Group) -> bytes:
    content = {**group.info, "caption": group.caption, "caption_id": group.caption_id}
    return json.dumps(content, sort_keys=True, separators=(",", ":")).encode()


def timed(client: httpx.Client, path: str) -> float:
    """Milliseconds of one page."""
    began = time.perf_counter()
    answer = client.get(path)
    taken = time.perf_counter() - began
    assert answer.status_code == 200, answer.text[:300]
    return taken * 1000


def gallery(client: httpx.Client, captions: int, firsts: list[int]) -> dict[str, Any]:
    """Pages at places of a large dataset that were not asked for before."""
    first = timed(client, f"/datasets/large?from={firsts[0]}")
    pages = [timed(client, f"/datasets/large?from={place}") for place in firsts[1:]]
    images = [timed(client, f"/datasets/large/captions/{place}/0.jpg") for place in firsts[1:]]
    searched, began = 0, time.perf_counter()
    place: int | None = 0
    while place is not None:  # the text is in no caption: all are searched, a stretch a page
        found = client.get(f"/datasets/large.json?q=purple+elephant&from={place}").json()
        searched, place = found["searched"], found["following"]
    search = time.perf_counter() - began
    assert searched == captions
    return {
        "captions": captions,
        "images_a_caption": IMAGES,
        "first_page_ms": round(first, 1),
        "page_ms_median": round(statistics.median(pages), 1),
        "page_ms_worst": round(max(pages), 1),
        "image_ms_median": round(statistics.median(images), 1),
        "captions_searched_per_second": round(captions / search),
    }


def jobs(services: LocalServices, client: httpx.Client, folder: Path, count: int) -> dict[str, Any]:
    """The first page with so many jobs that are not over."""
    (folder / "one.txt").write_text("a shoe\n", encoding="utf-8")
    with Client(services.address) as gateway:
        upload = gateway.upload_captions(folder / "one.txt")
        for number in range(count):
            gateway.create_job(f"job-{number:04d}", f"upload:{upload}", preset="flat")
        deadline = time.monotonic() + 300
        while any(job.state.value == "PLANNING" for job in gateway.list_jobs(live=True)):
            assert time.monotonic() < deadline
            time.sleep(1)
        for number in range(count // 2):
            gateway.cancel_job(f"job-{number:04d}")
    time.sleep(3)
    pages = [timed(client, "/jobs") for _ in range(PAGES)]
    return {
        "jobs": count,
        "half_of_them_over": True,
        "page_ms_median": round(statistics.median(pages), 1),
        "page_ms_worst": round(max(pages), 1),
    }


async def hold_open(url: str, seconds: float, pids: dict[str, int]) -> dict[str, Any]:
    """100 pages that follow the jobs, and the share of a core that each process takes meanwhile."""
    processes = {name: psutil.Process(pid) for name, pid in pids.items()}
    received = 0

    async def read(client: httpx.AsyncClient) -> None:
        nonlocal received
        async with client.stream("GET", "/events/jobs") as answer:
            async for _ in answer.aiter_bytes():
                received += 1

    def used() -> dict[str, float]:
        return {name: sum(process.cpu_times()[:2]) for name, process in processes.items()}

    limits = httpx.Limits(max_connections=OPEN_PAGES + 10)
    async with httpx.AsyncClient(base_url=url, limits=limits, timeout=None) as client:
        await asyncio.sleep(2)
        before = used()
        await asyncio.sleep(seconds)
        idle = {name: (value - before[name]) / seconds for name, value in used().items()}
        reading = [asyncio.create_task(read(client)) for _ in range(OPEN_PAGES)]
        await asyncio.sleep(5)
        before, first = used(), received
        await asyncio.sleep(seconds)
        busy = {name: (value - before[name]) / seconds for name, value in used().items()}
        assert received > first or seconds < 20, (received, first)
        for task in reading:
            task.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
    return {
        "open_pages": OPEN_PAGES,
        "seconds": seconds,
        "share_of_a_core_without_pages": {name: round(value, 4) for name, value in idle.items()},
        "share_of_a_core_with_pages": {name: round(value, 4) for name, value in busy.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--captions", type=int, default=10_000_000)
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=60.0, help="that pages are held open")
    parser.add_argument("--out", type=Path, help="the result's file; by default of whole runs alone")
    arguments = parser.parse_args()
    random.seed(0)
    with tempfile.TemporaryDirectory(prefix="stablerep-bench-") as name:
        folder = Path(name)
        write_manifest(folder / "store", arguments.captions)
        firsts = [random.randrange(0, arguments.captions - PAGE) for _ in range(PAGES + 1)]
        write_pages((folder / "store").as_uri(), firsts)
        with local_services(folder, workers=0, trainers=0, console="127.0.0.1:0") as services:
            url = f"http://{services.console}"
            pids = {
                child.name: child.process.pid
                for child in services.processes.children
                if child.name in ("gateway", "console")
            }
            with httpx.Client(base_url=url, timeout=60) as client:
                large = gallery(client, arguments.captions, firsts)
                many = jobs(services, client, folder, arguments.jobs)
            held = asyncio.run(hold_open(url, arguments.seconds, pids))
    report = {
        "date": datetime.now(UTC).date().isoformat(),
        "hardware": hardware(),
        "cores": os.cpu_count(),
        "command": "python -m benchmarks.console",
        "versions": {"python": platform.python_version()},
        "gallery": large,
        "jobs": many,
        "pages_held_open": held,
    }
    print(json.dumps(report, indent=1))
    whole = (arguments.captions, arguments.jobs) == (10_000_000, 1000)
    out = arguments.out or (RESULT if whole else None)
    if out is not None:
        out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
