"""What tests of a gateway share: caption files, waiting, what was planned."""

import random
import time
from collections.abc import Callable
from pathlib import Path

from stablerep.client import Client, Job, JobState
from stablerep.queue.client import Queue
from stablerep.shards import read_captions
from stablerep.shards.layout import captions_prefix, shard_of
from stablerep.storage import open_store


def caption_file(folder: Path, count: int, name: str = "captions.txt", words: int = 4) -> Path:
    """A text file of `count` captions, all different."""
    chance = random.Random(count)
    path = folder / name
    with path.open("w") as file:
        for number in range(count):
            tail = " ".join(chance.choice(["red", "blue", "shoe", "bag", "plain"]) for _ in range(words))
            file.write(f"caption {number} {tail}\n")
    return path


def wait_for(client: Client, name: str, condition: Callable[[Job], bool], seconds: float = 60) -> Job:
    """The job once the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition(job := client.get_job(name)):
        assert time.monotonic() < deadline, job
        time.sleep(0.05)
    return job


def planned(client: Client, name: str, seconds: float = 60) -> Job:
    """The job once it is no longer PLANNING."""
    return wait_for(client, name, lambda job: job.state is not JobState.PLANNING, seconds)


def planned_captions(store_url: str, dataset: str) -> list[list[tuple[int, str]]]:
    """The captions of every shard in the store, by shard number."""
    store = open_store(store_url)
    shards = [shard_of(info.key) for info in store.list(captions_prefix(dataset))]
    assert shards == list(range(len(shards)))
    return [[(c.id, c.text) for c in read_captions(store, dataset, shard)] for shard in shards]


def lease_all(redis_url: str) -> list[int]:
    """Every shard that the queue hands out, in order of its number."""
    queue = Queue(redis_url)
    shards = []
    while (lease := queue.lease("tester", 60)) is not None:
        shards.append(lease.shard)
        queue.complete(lease, groups=1, images=1, skipped=0)
    queue.close()
    return sorted(shards)
