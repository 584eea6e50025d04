"""What tests of workers share: recipes, shards, waiting, a dataset checked whole."""

import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from stablerep.client.generator import GeneratorClient
from stablerep.config.recipe import Recipe
from stablerep.queue.client import Queue
from stablerep.queue.states import JobState
from stablerep.shards import index_tar, read_index
from stablerep.shards.layout import shard_key
from stablerep.storage import Store
from stablerep.testing.worker import WorkerProcess

WORDS = ("red shoe", "grey boot", "dark shirt", "light dress", "grey bag", "red dress")


def make_recipe(pipeline: Path, **changes: object) -> Recipe:
    """Three images of four steps a caption, in batches of eight, from the pipeline in a folder."""
    fields = {
        "model": str(pipeline),
        "sampler": "ddim",
        "steps": 4,
        "guidance_scale": 2.0,
        "image_size": 32,
        "save_size": 32,
        "images_per_caption": 3,
        "batch_images": 8,
        "jpeg_quality": 95,
        "dtype": "float32",
    }
    return Recipe.model_validate(fields | changes)


def make_shards(shards: int, captions: int) -> list[list[tuple[int, str]]]:
    """Captions with their ids, so many a shard; some texts come again."""
    return [
        [
            (shard * captions + index, f"a photo of the {WORDS[(shard + index) % len(WORDS)]}")
            for index in range(captions)
        ]
        for shard in range(shards)
    ]


def until(condition: Callable[[], object], *workers: WorkerProcess, seconds: float = 240.0) -> float:
    """Waits for the condition; returns after how many seconds it held. The workers' logs tell why not."""
    began = time.monotonic()
    while not condition():
        assert time.monotonic() - began < seconds, "\n".join(worker.text()[-3000:] for worker in workers)
        time.sleep(0.02)
    return time.monotonic() - began


def generating(worker: WorkerProcess) -> Callable[[], bool]:
    """A condition: the worker has a shard on its GPU."""
    client = GeneratorClient(worker.address)
    return lambda: client.status().state == "GENERATING"


def assert_whole(
    store: Store, queue: Queue, dataset: str, shards: Sequence[Sequence[tuple[int, str]]], images: int
) -> None:
    """Reads every tar and index: each caption once, each with so many images; the queue counts the same."""
    seen: Counter[int] = Counter()
    for number, captions in enumerate(shards):
        index = read_index(store, dataset, number)
        assert index is not None
        assert index == index_tar(store.get(shard_key(dataset, number)), index.worker_ms)
        assert [(group.caption_id, group.caption) for group in index.groups] == captions
        assert index.images == images * len(captions)
        seen.update(group.caption_id for group in index.groups)
    assert len(list(store.list(f"datasets/{dataset}/shards/"))) == len(shards)
    wanted = sum(map(len, shards))
    assert (len(seen), set(seen.values())) == (wanted, {1})
    counts = queue.counts(dataset)
    places = (counts.planned, counts.done, counts.pending, counts.leased, counts.dead)
    assert places == (len(shards), len(shards), 0, 0, 0)
    assert (counts.groups, counts.images, counts.skipped) == (wanted, images * wanted, 0)
    assert queue.state(dataset) is JobState.SUCCEEDED
