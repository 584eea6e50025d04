"""Stores that fail under a running job: away, busy, full, closed to us, damaged. Nothing lost, nothing twice.

Each test ends with every group there once and counted once, and no attempt of a shard used up.
"""

import io
import os
import secrets
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from minio.credentials import StaticProvider
from minio.minioadmin import MinioAdmin
from PIL import Image

from stablerep.client.generator import GeneratorClient
from stablerep.config.recipe import Recipe
from stablerep.config.settings import S3
from stablerep.data import GroupDataset
from stablerep.errors import NotFound, StoreRefused, TornObject
from stablerep.queue.client import Queue
from stablerep.shards import Group, build_tar, commit_shard, index_tar, read_group
from stablerep.shards.layout import index_key, shard_key
from stablerep.storage import Store, open_store
from stablerep.testing.servers import MinioServer
from stablerep.testing.worker import WorkerProcess, plan_job
from stablerep.training import load_train_config
from stablerep.training.distributed import Ranks
from stablerep.training.loop import train
from tests.generators import assert_whole, until
from tests.pipelines import make_random_pipeline
from tests.proxies import S3Proxy
from tests.tools import tool

LEASE_SECONDS = 3
CAPTIONS, IMAGES = 4, 3
SHARDS = [
    [(shard * CAPTIONS + n, f"a photo of the red shoe {n}") for n in range(CAPTIONS)] for shard in range(5)
]
Start = Callable[..., WorkerProcess]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Recipe:
    return Recipe(
        model=str(make_random_pipeline(tmp_path_factory.mktemp("faults") / "pipeline")),
        sampler="ddim",
        steps=12,
        guidance_scale=2.0,
        image_size=32,
        save_size=32,
        images_per_caption=IMAGES,
        batch_images=8,
        jpeg_quality=95,
        dtype="float32",
    )


@pytest.fixture
def start(tmp_path: Path, redis_url: str) -> Iterator[Start]:
    """Starts workers; they reach S3 as the environment says at that time."""
    workers: list[WorkerProcess] = []

    def start(store: Store, **settings: object) -> WorkerProcess:
        settings = {"lease_seconds": LEASE_SECONDS, "poll_seconds": 0.05, "device": "cpu"} | settings
        folder = tmp_path / f"worker-{len(workers)}"
        workers.append(WorkerProcess(folder, store_url=store.url, redis_url=redis_url, **settings))
        return workers[-1]

    yield start
    for worker in workers:
        worker.end()


def access_to(server: MinioServer, monkeypatch: pytest.MonkeyPatch, **changes: str) -> S3:
    """The settings for this server, which processes started from now on have, too."""
    values = {
        "endpoint": server.endpoint,
        "access_key": server.access_key,
        "secret_key": server.secret_key,
    } | changes
    for name, value in values.items():
        monkeypatch.setenv(f"STABLEREP_S3__{name.upper()}", value)
    return S3.model_validate(values)


def assert_unharmed(store: Store, queue: Queue, shards: list[list[tuple[int, str]]] = SHARDS) -> None:
    """All is whole, and nothing was a failure of a shard's or left behind half written."""
    assert_whole(store, queue, "shoes", shards, IMAGES)
    assert queue.failures("shoes") == {}
    assert not [info.key for info in store.list() if ".tmp-" in info.key]


@pytest.mark.parametrize("seconds", [8, pytest.param(30, marks=pytest.mark.slow)])
def test_a_server_stopped_for_a_while_costs_time_alone(
    start: Start, queue: Queue, recipe: Recipe, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: int
) -> None:
    if seconds == 30 and not os.environ.get("STABLEREP_TEST_SLOW"):
        pytest.skip("30 s are tried with STABLEREP_TEST_SLOW=1; 8 s take the same way")
    (tmp_path / "minio").mkdir()
    server = MinioServer(tool("minio"), tmp_path / "minio")
    try:
        store = open_store("s3://faults/data", s3=access_to(server, monkeypatch))
        plan_job(store, queue, "shoes", recipe, SHARDS)
        worker = start(store)
        until(lambda: queue.counts("shoes").done >= 1, worker)
        server.stop()
        stopped = time.monotonic()
        until(lambda: "no object store answered" in worker.text(), worker)
        time.sleep(max(0.0, stopped + seconds - time.monotonic()))
        assert not queue.state("shoes").final
        server.start()
        until(lambda: queue.state("shoes").final, worker)
        assert_unharmed(store, queue)
    finally:
        server.stop()


def test_a_busy_server_is_left_alone_for_a_while_and_costs_time_alone(
    start: Start, queue: Queue, recipe: Recipe, minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = open_store(f"s3://busy-{secrets.token_hex(6)}", s3=access_to(minio_server, monkeypatch))
    with S3Proxy(minio_server.endpoint) as proxy:
        access = access_to(minio_server, monkeypatch, endpoint=proxy.endpoint)
        store = open_store(direct.url, s3=access)
        plan_job(store, queue, "shoes", recipe, SHARDS)
        worker = start(store)
        until(lambda: queue.counts("shoes").done >= 1, worker)
        proxy.busy.set()
        until(lambda: "is busy (SlowDown)" in worker.text(), worker)
        time.sleep(6)  # two leases
        assert not queue.state("shoes").final
        proxy.busy.clear()
        cleared = time.monotonic()
        until(lambda: queue.state("shoes").final, worker)
        assert time.monotonic() - cleared < 45  # the server had asked for a minute of peace
        assert proxy.statuses[503] > 4
        assert_unharmed(direct, queue)


def test_keys_that_are_refused_for_a_while_cost_time_alone(
    start: Start, queue: Queue, recipe: Recipe, minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    direct = open_store(f"s3://keys-{secrets.token_hex(6)}", s3=access_to(minio_server, monkeypatch))
    plan_job(direct, queue, "shoes", recipe, SHARDS)
    admin = MinioAdmin(
        endpoint=minio_server.endpoint.removeprefix("http://"),
        credentials=StaticProvider(minio_server.access_key, minio_server.secret_key),
        secure=False,
    )
    user, secret = secrets.token_hex(8), secrets.token_hex(16)
    admin.user_add(user, secret)
    admin.attach_policy(["readwrite"], user=user)
    access_to(minio_server, monkeypatch, access_key=user, secret_key=secret)
    worker = start(direct)
    until(lambda: queue.counts("shoes").done >= 1, worker)
    admin.user_disable(user)
    until(lambda: worker.text().count("check the access key") >= 4, worker)  # more than a shard's attempts
    assert secret not in worker.text()
    admin.user_enable(user)
    until(lambda: queue.state("shoes").final, worker)
    assert_unharmed(direct, queue)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 2 MiB of the test's own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    command = ["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(command, capture_output=True).returncode != 0:
        pytest.skip("no small-disk server: a file system may not be mounted here (needs root)")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """A file that takes all room but `leave` bytes; removing it makes room."""
    status = os.statvfs(disk)
    filler = disk / "filler"
    filler.write_bytes(b"x" * (status.f_bavail * status.f_frsize - leave))
    return filler


def test_a_full_disk_costs_time_alone_and_is_named(
    start: Start, queue: Queue, recipe: Recipe, small_disk: Path
) -> None:
    store = open_store(small_disk / "store")
    plan_job(store, queue, "shoes", recipe, SHARDS)
    worker = start(store)
    until(lambda: queue.counts("shoes").done >= 1, worker)
    filler = fill(small_disk, leave=8192)
    until(lambda: worker.text().count("disk full") >= 4, worker)  # more than a shard's attempts
    assert str(small_disk / "store") in worker.text()
    done = [number for number in range(len(SHARDS)) if store.exists(shard_key("shoes", number))]
    for number in done:  # what is there is whole
        index_tar(store.get(shard_key("shoes", number)))
    assert not queue.state("shoes").final
    filler.unlink()
    until(lambda: queue.state("shoes").final, worker)
    assert_unharmed(store, queue)
    assert not list(small_disk.rglob(".tmp-*"))


@pytest.mark.parametrize("if_absent", [False, True])
def test_what_does_not_fit_leaves_the_old_object_or_none(small_disk: Path, if_absent: bool) -> None:
    store = open_store(small_disk)
    store.put("a/old", b"old")
    fill(small_disk, leave=8192)
    for key in ("a/old", "a/new"):
        with pytest.raises(StoreRefused, match=f"disk full.*{key}.*{small_disk}"):
            store.put(key, b"x" * 100_000, if_absent=if_absent)
    with pytest.raises(StoreRefused, match="disk full"):
        store.put_many([("a/1", b"1"), ("a/2", b"x" * 100_000)])
    assert store.get("a/old") == b"old"
    assert [info.key for info in store.list("a/")] == ["a/old"]
    assert not list(small_disk.rglob(".tmp-*"))


def test_two_workers_with_other_batch_shapes_on_one_shard_leave_one_tar_on_s3(
    start: Start, queue: Queue, recipe: Recipe, minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(f"s3://shapes-{secrets.token_hex(6)}", s3=access_to(minio_server, monkeypatch))
    shards = SHARDS[:1]
    first = start(store)
    client = GeneratorClient(first.address)  # once it answers: it must not be done before it is looked at
    plan_job(store, queue, "shoes", Recipe.model_validate(recipe.model_dump() | {"steps": 100}), shards)
    until(lambda: client.status().state == "GENERATING", first)
    first.send(signal.SIGSTOP)  # its lease runs out meanwhile
    second = start(store, batch_limit=3)
    until(lambda: queue.state("shoes").final, second)
    tar = store.get(shard_key("shoes", 0))
    first.send(signal.SIGCONT)
    until(lambda: "dropped: lease lost" in first.text(), first)
    assert store.get(shard_key("shoes", 0)) == tar
    assert_unharmed(store, queue, shards)
    groups = [read_group(store, "shoes", 0, group) for group in index_tar(tar).groups]
    assert {group.info["batch_images"] for group in groups} == {3}


@pytest.fixture
def damaged(store_url: str) -> tuple[str, Store]:
    """A dataset of 3 shards, the tar of the last one cut to half its length."""
    store, random = open_store(store_url), np.random.default_rng(0)
    for shard in range(3):
        groups = [Group(shard * 8 + n, f"caption {n}", _images(random)) for n in range(8)]
        commit_shard(store, "d", shard, build_tar(groups))
    tar = store.get(shard_key("d", 2))
    store.put(shard_key("d", 2), tar[: len(tar) // 2])
    return f"{store_url}/datasets/d", store


def _images(random: np.random.Generator) -> tuple[bytes, ...]:
    images = []
    for _ in range(IMAGES):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 255, (16, 16, 3), np.uint8)).save(buffer, "JPEG")
        images.append(buffer.getvalue())
    return tuple(images)


def test_a_truncated_tar_is_named_by_whoever_reads_it(damaged: tuple[str, Store]) -> None:
    url, store = damaged
    groups = GroupDataset(url)
    assert len(groups) == 24
    assert [group.caption_id for group in (groups[0], groups[15])] == [0, 15]
    with pytest.raises(TornObject, match=r"shards/000002\.tar in .* is not what its index says") as caught:
        groups[23]
    assert store.url in str(caught.value)
    assert "stablerep reconcile d --verify" in str(caught.value)
    store.delete(shard_key("d", 2))
    with pytest.raises(NotFound, match=r"shards/000002\.tar"):
        groups[23]


def test_a_run_ends_with_the_name_of_the_tar_that_is_truncated(damaged: tuple[str, Store]) -> None:
    url, store = damaged
    config = load_train_config(
        "demo",
        {
            "run": f"{store.url}/runs/r",
            "datasets": [url],
            "method.images_per_caption": IMAGES,
            "views_per_batch": 24,
            "steps": 10,
            "encoder.kwargs": {
                "layers": [1, 1, 1, 1],
                "channels": [8, 8, 16, 16],
                "stem_width": 8,
                "stem_type": "",
            },
            "encoder.image_size": 16,
            "head": {"hidden": 32, "out": 16},
            "precision": "float32",
        },
    )
    with pytest.raises(TornObject, match=r"shards/000002\.tar"):
        train(config, Ranks(0, 1, torch.device("cpu")), threading.Event())


def test_an_index_that_is_no_index_is_named(damaged: tuple[str, Store]) -> None:
    url, store = damaged
    store.put(index_key("d", 1), store.get(index_key("d", 1))[:-20])
    with pytest.raises(TornObject, match=r"index/000001\.json is no index"):
        GroupDataset(url)
