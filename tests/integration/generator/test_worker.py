"""Workers as real processes on a real queue: killed, suspended past their lease, drained, cut off."""

import io
import json
import signal
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import CLIPTokenizer

from services.generator.context import WorkerContext
from services.generator.stages import gpu
from services.generator.stages.upload import Uploader
from services.generator.worker import Worker
from stablerep.captions import Caption
from stablerep.client.generator import GeneratorClient
from stablerep.config.settings import GeneratorSettings
from stablerep.generation import Generator, LoadedPipeline, Recipe, load_pipeline
from stablerep.queue.client import MAX_LOST, Queue
from stablerep.queue.states import JobState
from stablerep.shards import Group, build_tar, commit_shard, read_index
from stablerep.shards.layout import dataset_key, dead_key, index_key, shard_key
from stablerep.storage import Store, open_store
from stablerep.testing.servers import RedisServer
from stablerep.testing.worker import WorkerProcess, plan_job
from tests.generators import assert_whole, generating, make_recipe, make_shards, until
from tests.pipelines import make_failing_pipeline, make_random_pipeline

StartWorker = Callable[..., WorkerProcess]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_random_pipeline(tmp_path_factory.mktemp("worker") / "pipeline")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path / "store")


@pytest.fixture
def start(tmp_path: Path, store: Store, redis_url: str) -> Iterator[StartWorker]:
    """Starts workers that look for work often; all are gone after the test."""
    workers: list[WorkerProcess] = []

    def start(**settings: object) -> WorkerProcess:
        quick = {"lease_seconds": 2, "poll_seconds": 0.05, "retry_seconds": 0.05, "device": "cpu"}
        folder = tmp_path / f"worker-{len(workers)}"
        worker = WorkerProcess(folder, store_url=store.url, redis_url=redis_url, **(quick | settings))
        workers.append(worker)
        return worker

    yield start
    for worker in workers:
        worker.end()


def test_two_workers_make_a_job_as_the_library_would(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    recipe, shards = make_recipe(pipeline), make_shards(6, 4)
    plan_job(store, queue, "shoes", recipe, shards, seed=7)
    workers = [start(), start()]
    until(lambda: queue.state("shoes").final, workers[0])
    assert_whole(store, queue, "shoes", shards, images=3)
    indexes = [read_index(store, "shoes", shard) for shard in range(6)]
    kept = [index.worker_ms for index in indexes if index]
    assert len(kept) == 6
    assert min(kept) > 0
    assert queue.status("shoes").worker_seconds == sum(kept) / 1000
    generator = Generator(recipe, seed=7, device="cpu")
    for number in (0, 5):
        groups = list(generator.generate(_captions(shards[number])))
        assert build_tar(groups) == store.get(shard_key("shoes", number))


def test_killed_worker_leaves_nothing_missing_and_nothing_counted_twice(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    shards = make_shards(3, 6)
    plan_job(store, queue, "shoes", make_recipe(pipeline, steps=60), shards)
    first = start()
    until(lambda: queue.counts("shoes").done == 1, first)
    until(generating(first))
    first.send(signal.SIGKILL)
    assert first.wait() == -signal.SIGKILL
    assert queue.counts("shoes").leased >= 1
    second = start()
    until(lambda: queue.state("shoes").final, second)
    assert_whole(store, queue, "shoes", shards, images=3)


def test_suspended_worker_and_its_replacement_with_another_batch_shape_agree(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    shards = make_shards(1, 8)
    plan_job(store, queue, "shoes", make_recipe(pipeline, steps=60), shards)
    first = start(lease_seconds=1)
    until(generating(first))
    first.send(signal.SIGSTOP)
    second = start(lease_seconds=1, batch_limit=3)
    until(lambda: queue.state("shoes").final, second)
    tar = store.get(shard_key("shoes", 0))
    first.send(signal.SIGCONT)
    until(lambda: "dropped: lease lost" in first.text(), first)
    assert store.get(shard_key("shoes", 0)) == tar
    assert_whole(store, queue, "shoes", shards, images=3)
    assert {info["batch_images"] for info in _infos(tar)} == {3}


def test_late_tar_of_a_worker_that_does_not_know_yet_changes_nothing(
    store: Store, queue: Queue, pipeline: Path
) -> None:
    """The worst moment: the lease is lost, no renewal has told so yet, and the worker commits."""
    recipe, shards = make_recipe(pipeline), make_shards(1, 4)
    plan_job(store, queue, "shoes", recipe, shards)
    tar, late = (
        build_tar(
            list(Generator(recipe, seed=7, device="cpu", batch_limit=limit).generate(_captions(shards[0])))
        )
        for limit in (3, 0)
    )
    assert tar != late
    worker = WorkerContext(store, queue, GeneratorSettings(lease_seconds=900))
    uploader = Uploader(worker)
    lease = queue.lease("late", 900)
    assert lease is not None
    shard = worker.shards.take(lease)
    # Another worker's whole work happens meanwhile, with another batch shape.
    other = queue.lease("other", 0.001)
    assert other is not None
    index = commit_shard(store, "shoes", 0, tar)
    assert queue.complete(other, groups=len(index.groups), images=index.images, skipped=0)
    shard.tar = late
    uploader.put(shard)
    uploader.end()
    uploader.run()
    assert store.get(shard_key("shoes", 0)) == tar
    assert_whole(store, queue, "shoes", shards, images=3)
    assert uploader.shards_done == 0
    assert worker.shards.now() == []


def test_committed_shard_is_reported_without_making_it_again(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    recipe, shards = make_recipe(pipeline), make_shards(2, 2)
    plan_job(store, queue, "shoes", recipe, shards)
    generator = Generator(recipe, seed=7, device="cpu", batch_limit=2)  # told apart by its batches
    for number in (0, 1):
        store.put(shard_key("shoes", number), build_tar(list(generator.generate(_captions(shards[number])))))
    worker = start()  # both have a tar, neither an index: their worker died in between
    until(lambda: queue.state("shoes").final, worker)
    assert_whole(store, queue, "shoes", shards, images=3)
    assert {info["batch_images"] for info in _infos(store.get(shard_key("shoes", 1)))} == {2}
    assert "images/s" not in worker.text()


def test_term_hands_back_a_shard_that_takes_too_long(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    plan_job(store, queue, "shoes", make_recipe(pipeline, steps=1000), make_shards(1, 20))
    worker = start(grace_seconds=2, lease_seconds=60)
    until(generating(worker))
    before = time.monotonic()
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert time.monotonic() - before < 15
    assert "released: it would not be done in time" in worker.text()
    counts = queue.counts("shoes")
    assert (counts.pending, counts.leased, counts.done) == (1, 0, 0)
    assert queue.failures("shoes") == {}
    assert queue.lease("next", 60) is not None


def test_term_finishes_a_shard_that_is_done_soon(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    shards = make_shards(2, 6)
    plan_job(store, queue, "shoes", make_recipe(pipeline, steps=60), shards)
    worker = start(grace_seconds=300)
    until(generating(worker))
    worker.send(signal.SIGTERM)
    assert worker.wait() == 0
    assert queue.counts("shoes").done == 1
    assert queue.counts("shoes").leased == 0


def test_drain_call_finishes_the_shard_in_hand_and_ends_the_process(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    plan_job(store, queue, "shoes", make_recipe(pipeline, steps=60), make_shards(3, 6))
    worker = start(grace_seconds=0)
    until(generating(worker))
    with GeneratorClient(worker.address) as client:
        status = client.drain()
        assert (status.state, status.shard) == ("DRAINING", "jobs/shoes/shards/0")
    assert worker.wait() == 0
    assert (queue.counts("shoes").done, queue.counts("shoes").leased) == (1, 0)


def test_cancelled_job_is_dropped_between_steps(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    plan_job(store, queue, "long", make_recipe(pipeline, steps=1000), make_shards(1, 50))
    worker = start()
    until(generating(worker))
    queue.set_state("long", JobState.CANCELLED)
    shards = make_shards(1, 2)
    plan_job(store, queue, "short", make_recipe(pipeline), shards)
    until(lambda: queue.state("short").final, worker)
    assert "dropped: job cancelled" in worker.text()
    assert not store.exists(index_key("long", 0))
    assert_whole(store, queue, "short", shards, images=3)


def test_error_of_a_shard_is_reported_and_the_worker_goes_on(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    plan_job(store, queue, "nothing", make_recipe(Path("/nowhere/to/be/found")), make_shards(1, 2))
    plan_job(store, queue, "shoes", make_recipe(pipeline), shards := make_shards(1, 2))
    store.delete(dataset_key("shoes"))  # then one that will be put right
    worker = start()
    until(lambda: queue.state("nothing") is JobState.FAILED and queue.failures("shoes") != {}, worker)
    assert "/nowhere/to/be/found" in queue.dead("nothing")[0]
    until(lambda: 0 in queue.dead("shoes"), worker)
    assert "no dataset shoes" in queue.dead("shoes")[0]
    until(lambda: store.exists(dead_key("shoes", 0)), worker)
    assert "no dataset shoes" in store.get(dead_key("shoes", 0)).decode()
    plan_job(store, queue, "boots", make_recipe(pipeline), shards)
    until(lambda: queue.state("boots").final, worker)
    assert_whole(store, queue, "boots", shards, images=3)


def test_shard_that_workers_died_of_is_recorded_in_the_store(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    plan_job(store, queue, "deadly", make_recipe(pipeline), make_shards(1, 2))
    for _ in range(MAX_LOST + 1):
        assert queue.lease("dies of it", 0.001) is not None
        time.sleep(0.005)
    worker = start(lease_seconds=1)
    until(lambda: store.exists(dead_key("deadly", 0)), worker)
    assert "21 workers died" in store.get(dead_key("deadly", 0)).decode()
    assert queue.state("deadly") is JobState.FAILED


def test_bad_caption_is_recorded_and_does_not_sink_its_shard(
    start: StartWorker, store: Store, queue: Queue, tmp_path: Path
) -> None:
    folder = make_random_pipeline(tmp_path / "poisoned")
    weights = folder / "text_encoder" / "model.safetensors"
    tensors = load_file(weights)
    token = CLIPTokenizer.from_pretrained(folder / "tokenizer")("bag").input_ids[1]
    (name,) = (name for name in tensors if name.endswith("token_embedding.weight"))
    tensors[name][token] = torch.nan
    save_file(tensors, weights, metadata={"format": "pt"})
    captions = [(10, "a red shoe"), (12, "a red bag"), (13, "a grey boot")]
    plan_job(store, queue, "shoes", make_recipe(folder), [captions])
    worker = start()
    until(lambda: queue.state("shoes").final, worker)
    index = read_index(store, "shoes", 0)
    assert index is not None
    assert [group.caption_id for group in index.groups] == [10, 13]
    assert [(caption.caption_id, "not finite" in caption.error) for caption in index.skipped] == [(12, True)]
    counts = queue.counts("shoes")
    assert (counts.groups, counts.images, counts.skipped) == (2, 6, 1)


def test_shard_left_by_a_deleted_job_of_the_name_is_not_taken_for_this_jobs(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path
) -> None:
    """As a worker leaves it that writes after the deletion; the images would be those of other captions."""
    ((caption_id, _),) = captions = make_shards(1, 1)[0]
    commit_shard(store, "shoes", 0, build_tar([Group(caption_id, "of the deleted job", (b"jpeg",), {})]))
    plan_job(store, queue, "shoes", make_recipe(pipeline), [captions])
    worker = start()
    until(lambda: queue.state("shoes").final, worker)
    assert queue.state("shoes") is JobState.FAILED
    assert "left by an earlier job of its name" in queue.dead("shoes")[0]


def test_caption_on_which_the_pipeline_fails_is_recorded_and_does_not_sink_its_shard(
    start: StartWorker, store: Store, queue: Queue, tmp_path: Path
) -> None:
    folder = make_failing_pipeline(tmp_path / "failing")
    captions = [(id_, f"a {'red bag' if id_ in (3, 11) else 'dark shoe'}") for id_ in range(12)]
    plan_job(store, queue, "shoes", make_recipe(folder, sampler="pipeline"), [captions])
    worker = start(metrics_address="127.0.0.1:0")
    until(lambda: queue.state("shoes").final, worker)
    index = read_index(store, "shoes", 0)
    assert index is not None
    assert [caption.caption_id for caption in index.skipped] == [3, 11]
    assert all("failed on it: IndexError" in caption.error for caption in index.skipped)
    assert [group.caption_id for group in index.groups] == [id_ for id_ in range(12) if id_ not in (3, 11)]
    counts = queue.counts("shoes")
    assert (counts.done, counts.groups, counts.images, counts.skipped) == (1, 10, 30, 2)
    assert queue.failures("shoes") == {}
    assert worker.metric("stablerep_captions_skipped_total") == 2
    assert worker.metric("stablerep_images_generated_total") == 30
    assert worker.metric("stablerep_shards_total", outcome="done") == 1


def test_batch_too_large_for_memory_is_halved_recorded_and_tried_again_with_the_next_shards(
    store: Store, queue: Queue, pipeline: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Through the worker, whose real pipeline runs out of memory as a GPU does while another has it."""
    free = threading.Event()

    def load(recipe: Recipe, device: str) -> LoadedPipeline:
        loaded = load_pipeline(recipe, device)

        def allocate(module: torch.nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            if not free.is_set() and inputs[0].shape[0] > 3:
                raise torch.OutOfMemoryError("CUDA out of memory")

        loaded.pipe.vae.decoder.conv_in.register_forward_pre_hook(allocate)
        return loaded

    monkeypatch.setattr(gpu, "load_pipeline", load)
    shards = make_shards(6, 4)
    plan_job(store, queue, "shoes", make_recipe(pipeline), shards)
    settings = GeneratorSettings(lease_seconds=5, poll_seconds=0.05, device="cpu", in_flight=1)
    worker = Worker(store, queue, settings)
    running = threading.Thread(target=worker.run)
    running.start()
    try:
        until(lambda: queue.shards("shoes", 1, 1)[0].state == "DONE")
        free.set()
        until(lambda: queue.state("shoes").final)
    finally:
        worker.drain.order(0)
        running.join()
    assert_whole(store, queue, "shoes", shards, images=3)
    sizes = [
        {info.get("batch_images") for info in _infos(store.get(shard_key("shoes", number)))}
        for number in range(6)
    ]
    assert sizes[0] == {2}  # 8, 4, 2
    assert sizes[1] == {2}
    assert sizes[5] == {None}, sizes  # the full batch again
    generator = Generator(make_recipe(pipeline), seed=7, device="cpu")
    assert store.get(shard_key("shoes", 5)) == build_tar(list(generator.generate(_captions(shards[5]))))


@pytest.mark.parametrize(
    ("field", "settings"),
    [
        ("generator.preload", {"preload": "no-such-preset"}),
        ("generator.device", {"device": "cuda:77"}),
    ],
)
def test_device_or_preset_that_is_not_there_ends_the_worker_before_it_takes_a_lease(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path, field: str, settings: dict[str, str]
) -> None:
    plan_job(store, queue, "shoes", make_recipe(pipeline), make_shards(2, 2))
    worker = start(**settings)
    assert worker.wait() == 2
    assert field in worker.text()
    assert queue.counts("shoes").leased == 0
    assert queue.failures("shoes") == {}


def test_worker_outlives_its_queue(
    start: StartWorker, store: Store, queue: Queue, pipeline: Path, redis_server: RedisServer
) -> None:
    shards = make_shards(3, 6)
    plan_job(store, queue, "shoes", make_recipe(pipeline, steps=30), shards)
    worker = start(lease_seconds=60)
    until(lambda: queue.counts("shoes").done == 1, worker)
    time.sleep(1.5)  # the server forces its file to disk every second
    redis_server.kill()
    until(lambda: "cannot reach Redis" in worker.text(), worker)
    redis_server.restart()
    until(lambda: queue.state("shoes").final, worker)
    assert_whole(store, queue, "shoes", shards, images=3)


def test_job_runs_on_s3(
    start: StartWorker, s3_url: str, redis_url: str, pipeline: Path, tmp_path: Path
) -> None:
    store, queue = open_store(s3_url), Queue(redis_url)
    shards = make_shards(2, 3)
    plan_job(store, queue, "shoes", make_recipe(pipeline), shards)
    worker = WorkerProcess(tmp_path / "s3", store_url=s3_url, redis_url=redis_url, device="cpu")
    try:
        until(lambda: queue.state("shoes").final, worker)
    finally:
        worker.end()
    assert_whole(store, queue, "shoes", shards, images=3)


def _captions(shard: list[tuple[int, str]]) -> list[Caption]:
    return [Caption(id_, text) for id_, text in shard]


def _infos(tar: bytes) -> Iterator[dict[str, Any]]:
    with tarfile.open(fileobj=io.BytesIO(tar)) as file:
        for member in file:
            if member.name.endswith(".json"):
                content = file.extractfile(member)
                assert content is not None
                yield json.loads(content.read())
