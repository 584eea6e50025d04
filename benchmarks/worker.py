"""A worker whose store is slow: all stages at once against one shard after the other.

    python -m benchmarks.worker          # writes benchmarks/results/worker.json, about 5 minutes

A real worker makes a job of a tiny pipeline on a CPU and writes it to a real MinIO server behind a line of so
many bytes a second, chosen so that a shard's upload takes about a third of its generation's time, as long, or
three times as long. `in_flight=1` is the worker of one shard at a time; 3 is the default. A job's time is
compared with the times of its own stages: best is the longer of generation and upload, worst is their sum.
"""

import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.imports import hardware
from stablerep.config.recipe import Recipe
from stablerep.local.queue_server import EmbeddedServer
from stablerep.queue.client import Queue
from stablerep.storage import open_store
from stablerep.testing.servers import MinioServer
from stablerep.testing.slow_link import SlowLink
from stablerep.testing.worker import WorkerProcess, plan_job

RESULT = Path(__file__).parent / "results" / "worker.json"
SHARDS = 8
CAPTIONS = 8
UPLOAD_PER_GENERATION = (1 / 3, 1.0, 3.0)
IN_FLIGHT = (1, 3)
ON_THE_GPU = ("text", "denoise", "decode")
RECIPE = Recipe(
    model="builtin:fashion",
    sampler="ddim",
    steps=20,
    guidance_scale=2.0,
    image_size=32,
    save_size=32,
    images_per_caption=4,
    batch_images=16,
    jpeg_quality=95,
    dtype="float32",
)


def _minio() -> Path:
    """The MinIO server, built first where it is missing."""
    script = Path(__file__).resolve().parents[1] / "scripts" / "test_tools.py"
    found = subprocess.run([sys.executable, script, "minio"], stdout=subprocess.PIPE, text=True, check=True)
    return Path(found.stdout.strip())


@dataclass(frozen=True)
class Measured:
    """Seconds of a job, from the first lease to the last completion, and of the stages of all its shards."""

    job: float
    generation: float
    encode: float
    upload: float
    bytes: int


def run_job(folder: Path, minio: MinioServer, *, in_flight: int, bytes_a_second: float) -> Measured:
    """One job on a fresh worker, which has loaded its pipeline before."""
    folder.mkdir(parents=True)
    with (
        SlowLink(minio.endpoint.removeprefix("http://"), bytes_a_second=1e9, delay_seconds=0.002) as link,
        EmbeddedServer(folder / "redis") as redis,
    ):
        os.environ |= minio.environment | {"STABLEREP_S3_ENDPOINT": f"http://{link.address}"}
        url = f"s3://worker/{folder.name}"
        store, queue = open_store(url), Queue(redis.url)
        worker = WorkerProcess(
            folder / "worker",
            store_url=url,
            redis_url=redis.url,
            device="cpu",
            preload="tiny",
            poll_seconds=0.05,
            metrics_address="127.0.0.1:0",
            in_flight=in_flight,
        )
        try:
            _make(worker, store, queue, "warm up", 2)
            before = {stage: _stage_seconds(worker, stage) for stage in (*ON_THE_GPU, "encode", "upload")}
            link.bytes_a_second = bytes_a_second
            seconds = _make(worker, store, queue, "measured", SHARDS)
            spent = {stage: _stage_seconds(worker, stage) - start for stage, start in before.items()}
        finally:
            worker.end()
        link.bytes_a_second = 1e9
        size = sum(info.size for info in store.list("datasets/measured/shards/"))
        queue.close()
    generation = sum(spent[stage] for stage in ON_THE_GPU)
    return Measured(seconds, generation, spent["encode"], spent["upload"], size)


def _make(worker: WorkerProcess, store: Any, queue: Queue, name: str, shards: int) -> float:
    dataset = name.replace(" ", "-")
    captions = [[(s * CAPTIONS + i, "dark plain dress") for i in range(CAPTIONS)] for s in range(shards)]
    plan_job(store, queue, dataset, RECIPE, captions)
    began = time.monotonic()
    while not queue.state(dataset).final:
        time.sleep(0.02)
        assert time.monotonic() - began < 600, worker.text()
    assert queue.counts(dataset).done == shards
    return time.monotonic() - began


def _stage_seconds(worker: WorkerProcess, stage: str) -> float:
    return worker.metric("stablerep_stage_seconds_sum", stage=stage)


def compare(folder: Path, minio: MinioServer) -> list[dict[str, Any]]:
    """Every ratio of upload to generation, shard by shard and overlapped, in turn."""
    first = run_job(folder / "calibration", minio, in_flight=1, bytes_a_second=1e9)
    rows = []
    for ratio in UPLOAD_PER_GENERATION:
        rate = first.bytes / (first.generation * ratio)
        for in_flight in IN_FLIGHT:
            name = f"{ratio:.2f}-{in_flight}"
            done = run_job(folder / name, minio, in_flight=in_flight, bytes_a_second=rate)
            row = {
                "upload_per_generation_wanted": round(ratio, 2),
                "in_flight": in_flight,
                "job_seconds": round(done.job, 2),
                "generation_seconds": round(done.generation, 2),
                "encode_seconds": round(done.encode, 2),
                "upload_seconds": round(done.upload, 2),
                "job_per_longer_stage": round(done.job / max(done.generation, done.upload), 2),
                "job_per_sum": round(done.job / (done.generation + done.upload), 2),
            }
            print(json.dumps(row), flush=True)
            rows.append(row)
    return rows


def main() -> None:
    before = round(os.getloadavg()[1], 1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        minio = MinioServer(_minio(), folder)
        try:
            rows = compare(folder, minio)
        finally:
            minio.stop()
    record = {
        "date": datetime.now(UTC).date().isoformat(),
        "command": "python -m benchmarks.worker",
        "hardware": hardware(),
        "python": platform.python_version(),
        "torch": version("torch"),
        "shards": SHARDS,
        "captions_a_shard": CAPTIONS,
        "images_a_caption": RECIPE.images_per_caption,
        "device": "cpu, one thread",
        "load_average": {"before": before, "after": round(os.getloadavg()[1], 1)},
        "jobs": rows,
    }
    RESULT.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
