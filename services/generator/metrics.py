"""What a generator worker counts for Prometheus; docs/operations.md lists every metric with its meaning.

The numbers are of this process since it started. Every label value is there from the start at 0, so that a
rate over the first event is right.
"""

from typing import Literal, get_args

from prometheus_client import Counter, Histogram

Stage = Literal["text", "denoise", "decode", "encode", "upload"]
Outcome = Literal["done", "retry", "dead", "handed_back", "lost", "cancelled"]
Server = Literal["queue", "store"]

_stage_seconds = Histogram(
    "stablerep_stage_seconds",
    "Time of a stage: text, denoise, decode of a batch, encode of a group, upload of a shard.",
    ["stage"],
    buckets=(0.003, 0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 100, 300),
)
_images = Counter("stablerep_images_generated_total", "Images made, those of shards dropped later included.")
_groups = Counter("stablerep_groups_generated_total", "Groups made, those of shards dropped later included.")
_skipped = Counter("stablerep_captions_skipped_total", "Captions that could not be generated from.")
_shards = Counter("stablerep_shards_total", "Shards that this worker was done with, by outcome.", ["outcome"])
_halvings = Counter(
    "stablerep_oom_halvings_total", "Times the batch was halved after the GPU ran out of memory."
)
_load_seconds = Histogram(
    "stablerep_model_load_seconds",
    "Time to load a text-to-image pipeline.",
    buckets=(0.3, 1, 3, 10, 30, 100, 300, 1000),
)
_retries = Counter(
    "stablerep_retries_total", "Times the worker tried again because a server was away.", ["server"]
)

for _stage in get_args(Stage):
    _stage_seconds.labels(_stage)
for _outcome in get_args(Outcome):
    _shards.labels(_outcome)
for _server in get_args(Server):
    _retries.labels(_server)


def observe_stage(stage: Stage, seconds: float) -> None:
    """One stage of a batch, a group or a shard took so long."""
    _stage_seconds.labels(stage).observe(seconds)


def count_group(images: int) -> None:
    """A group was made, or with 0 images its caption was skipped."""
    if images:
        _groups.inc()
        _images.inc(images)
    else:
        _skipped.inc()


def count_shard(outcome: Outcome) -> None:
    """The worker is done with a shard.

    done: reported complete, and the first to be so; retry: failed, to be tried again; dead: failed for the
    last time; handed_back: released at a stop or because a server was away; lost: another worker has it now;
    cancelled: its job is over.
    """
    _shards.labels(outcome).inc()


def count_oom_halving() -> None:
    """The GPU ran out of memory and the batch was halved."""
    _halvings.inc()


def observe_model_load(seconds: float) -> None:
    """A pipeline was loaded."""
    _load_seconds.observe(seconds)


def count_retry(server: Server) -> None:
    """The queue or the store was away, and is asked again."""
    _retries.labels(server).inc()
