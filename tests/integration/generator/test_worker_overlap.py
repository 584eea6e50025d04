"""A worker's stages side by side: a store that is slow for real keeps no GPU waiting; nothing piles up."""

import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.generator.context import WorkerContext
from services.generator.stages import encode as encoder
from services.generator.stages.encode import JpegEncoder
from services.generator.stages.upload import Uploader
from services.generator.worker import Worker
from stablerep.captions import Caption
from stablerep.config.recipe import Recipe
from stablerep.config.settings import GeneratorSettings
from stablerep.generation import Generator
from stablerep.queue.client import Queue
from stablerep.shards import build_tar
from stablerep.shards.layout import shard_key
from stablerep.storage import open_store
from stablerep.testing.servers import MinioServer
from stablerep.testing.slow_link import SlowLink
from stablerep.testing.worker import WorkerProcess, plan_job
from tests.generators import make_shards

SHARDS = 5
STAGES = ("text", "denoise", "decode", "encode", "upload")


def test_time_of_a_job_is_that_of_its_generation_and_not_the_sum_with_its_uploads(
    minio_server: MinioServer,
    s3_url: str,
    redis_url: str,
    queue: Queue,
    tiny_recipe: Recipe,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    recipe = tiny_recipe.model_copy(update={"steps": 8, "images_per_caption": 4, "batch_images": 8})
    shards = make_shards(SHARDS, 6)
    with SlowLink(
        minio_server.endpoint.removeprefix("http://"), bytes_a_second=1e9, delay_seconds=0.02
    ) as link:
        monkeypatch.setenv("STABLEREP_S3_ENDPOINT", f"http://{link.address}")
        store = open_store(s3_url)
        settings = {
            "device": "cpu",
            "poll_seconds": 0.05,
            "preload": "tiny",
            "metrics_address": "127.0.0.1:0",
        }
        worker = WorkerProcess(tmp_path / "worker", store_url=s3_url, redis_url=redis_url, **settings)
        try:
            plan_job(store, queue, "warm", recipe, shards[:2])
            _until_done(queue, "warm", worker)
            before = {stage: _seconds(worker, stage) for stage in STAGES}
            made = before["text"] + before["denoise"] + before["decode"]
            size = len(store.get(shard_key("warm", 0)))
            link.bytes_a_second = size / (0.5 * made / 2)  # an upload takes about half as long as a shard
            plan_job(store, queue, "shoes", recipe, shards)
            began = time.monotonic()
            _until_done(queue, "shoes", worker)
            job = time.monotonic() - began
            spent = {stage: _seconds(worker, stage) - before[stage] for stage in STAGES}
        finally:
            worker.end()
        link.bytes_a_second = 1e9
        groups = Generator(recipe, seed=7, device="cpu").generate([Caption(*c) for c in shards[3]])
        assert store.get(shard_key("shoes", 3)) == build_tar(list(groups))
    generation = spent["text"] + spent["denoise"] + spent["decode"]
    upload = spent["upload"]
    longer, shorter = max(generation, upload), min(generation, upload)
    assert shorter > 0.2 * longer  # else there is nothing to overlap
    # Besides the longer stage: the first shard's fetching and the last one's upload, or generation.
    assert job < longer + 2 * shorter / SHARDS + 0.1 * longer + 0.5, (job, spent)
    assert job < 0.9 * (generation + upload), (job, spent)


def test_no_more_shards_are_leased_than_allowed_and_pixels_wait_for_a_slow_encoder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, queue: Queue, tiny_recipe: Recipe
) -> None:
    """The GPU's thread waits once too many pixels do; with one thread it would wait for ever."""

    store = open_store(tmp_path / "store")
    plan_job(store, queue, "shoes", tiny_recipe, make_shards(1, 4))
    worker = WorkerContext(store, queue, GeneratorSettings(lease_seconds=60))
    lease = queue.lease("one", 60)
    assert lease is not None
    shard = worker.shards.take(lease)
    encoding = JpegEncoder(worker, Uploader(worker))
    generator = Generator(tiny_recipe, device="cpu")
    group_pixels = list(generator.generate_pixels(["dark plain dress"] * 4))
    monkeypatch.setattr(encoder, "MAX_WAITING_BYTES", 2 * group_pixels[0].size)
    put: list[int] = []

    def generate_pixels() -> None:
        for number, group in enumerate(group_pixels):
            encoding.put(shard, generator, group)
            put.append(number)

    gpu = threading.Thread(target=generate_pixels)
    gpu.start()
    time.sleep(0.3)
    assert put == [0, 1]
    running = threading.Thread(target=encoding.run)
    running.start()
    gpu.join()
    assert put == [0, 1, 2, 3]
    encoding.end()
    running.join()
    assert [len(group.encoded) for group in shard.groups] == [2, 2, 2, 2]
    worker.shards.release_all("over")


@pytest.mark.parametrize("in_flight", [1, 2])
def test_leases_in_hand_are_bounded(
    tmp_path: Path, redis_url: str, queue: Queue, tiny_recipe: Recipe, in_flight: int
) -> None:
    store = open_store(tmp_path / "store")
    plan_job(store, queue, "shoes", tiny_recipe, make_shards(8, 2))
    settings = {"device": "cpu", "poll_seconds": 0.05, "in_flight": in_flight}
    worker = WorkerProcess(tmp_path / "worker", store_url=store.url, redis_url=redis_url, **settings)
    most = 0
    try:
        while not queue.state("shoes").final:
            most = max(most, queue.counts("shoes").leased)
    finally:
        worker.end()
    assert most == in_flight
    assert queue.counts("shoes").done == 8


@pytest.mark.parametrize("where", ["gpu", "encoder", "uploader", "fetcher"])
def test_error_that_nobody_foresaw_ends_the_worker_and_costs_no_other_shard(
    tmp_path: Path, queue: Queue, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    class Unforeseen(Exception):
        pass

    def fail(*_: object, **__: object) -> None:
        raise Unforeseen(where)

    store = open_store(tmp_path / "store")
    plan_job(store, queue, "shoes", tiny_recipe, make_shards(40, 2))
    worker = Worker(store, queue, GeneratorSettings(poll_seconds=0.05, device="cpu", grace_seconds=10))
    raised: list[Exception] = []

    def run() -> None:
        try:
            worker.run()
        except Unforeseen as error:
            raised.append(error)

    running = threading.Thread(target=run)
    running.start()
    _until(lambda: queue.counts("shoes").done >= 1)
    monkeypatch.setattr(*{
        "gpu": (Generator, "generate_pixels", fail),
        "encoder": (Generator, "encode", fail),
        "uploader": ("services.generator.stages.upload.commit_shard", fail),
        "fetcher": ("services.generator.stages.fetch.read_index", fail),
    }[where])  # fmt: skip
    running.join(60)
    assert [str(error) for error in raised] == [where]
    assert worker.crashed
    assert queue.failures("shoes") == {}
    counts = queue.counts("shoes")
    assert counts.leased == 1  # the one that it happened to: its lease runs out
    assert counts.done + counts.pending == 39


def _until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.002)


def _until_done(queue: Queue, dataset: str, worker: WorkerProcess) -> None:
    deadline = time.monotonic() + 240
    while not queue.state(dataset).final:
        assert time.monotonic() < deadline, worker.text()
        time.sleep(0.02)


def _seconds(worker: WorkerProcess, stage: str) -> float:
    return worker.metric("stablerep_stage_seconds_sum", stage=stage)
