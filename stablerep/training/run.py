"""A run in the store: what it is, the shards it reads, and whether it is done or where it resumes."""

import json
import threading
from dataclasses import dataclass
from itertools import repeat
from typing import Any

from stablerep.config.loading import dotted
from stablerep.data import GroupDataset
from stablerep.data.corpus.groups import committed_shards, identify
from stablerep.data.corpus.positive_sets import Corpus
from stablerep.errors import AlreadyExists, NotFound
from stablerep.models.tokenizer import load_tokenizer, read_tokenizer
from stablerep.progress import console
from stablerep.runs.config import TrainConfig, parse_train_config
from stablerep.shards.layout import run_key
from stablerep.storage import Store, open_store
from stablerep.training.distributed import Ranks
from stablerep.training.following import follow_dataset, wait_for_plan

# What may change between a start and its resumption: none of it decides what is learnt. Datasets may have
# moved to another URL; that they are the same is known from data.json.
_FREE = {
    "run",
    "datasets",
    "threads",
    "prefetch",
    "load_in",
    "decoded_bytes",
    "damaged_share",
    "encode_parts",
    "recompute",
    "compile",
    "shard",
    "keep_checkpoints",
    "tracker",
    "checkpoint_every",
    "log_every",
}
_TOKENIZER = "tokenizer.json"


@dataclass(frozen=True)
class Run:
    """An opened run: its store, name, and the datasets at the shards it started with."""

    store: Store
    name: str
    corpus: Corpus

    def put_json(self, name: str, value: dict[str, Any]) -> None:
        self.store.put(run_key(self.name, name), (json.dumps(value, indent=1) + "\n").encode())

    def result(self) -> dict[str, Any] | None:
        """What a finished run wrote last; None while there is something left to do."""
        return _read_json(self.store, run_key(self.name, "result.json"))


def open_run(config: TrainConfig, ranks: Ranks, stop: threading.Event) -> Run:
    """Opens a run, or starts it: config.json and data.json say what it is and which shards it reads.

    A dataset may grow meanwhile; the run keeps to the shards there were at its start, or were planned if it
    follows its datasets, on all ranks and when resumed, or the order of its batches would change.

    Raises AlreadyExists if the run is there with another configuration or other datasets, NotFound for a
    dataset that has no shard, WaitCancelled if `stop` is set meanwhile; on all ranks the same.
    """
    store, name = open_store(config.store_url), config.run_name
    with ranks.together():
        if ranks.first:
            _claim(store, name, config)
            _claim_data(store, name, config, stop)
            _claim_tokenizer(store, name, config)
    with ranks.together():
        corpus = open_corpus(store, name, config)
    return Run(store, name, corpus)


def open_corpus(store: Store, name: str, config: TrainConfig) -> Corpus:
    """The datasets of a run that has begun, at the shards that it started with."""
    data = _read_json(store, run_key(name, "data.json"))
    if data is None:
        raise NotFound(f"{config.run}/data.json is not there, which the first rank wrote; is it one store?")
    followed = data.get("followed") or [False] * len(config.datasets)
    datasets = zip(config.datasets, data["shards"], followed, strict=True)
    return Corpus(
        tuple(
            follow_dataset(store, name, number, url) if follows else GroupDataset(url, shards=shards)
            for number, (url, shards, follows) in enumerate(datasets)
        )
    )


def _claim_data(store: Store, name: str, config: TrainConfig, stop: threading.Event) -> None:
    """Writes down which datasets the run reads and their shards; later, checks that they are these."""
    identities = [identify(url) for url in config.datasets]
    there = _read_json(store, run_key(name, "data.json"))
    if there is None:
        data: dict[str, Any] = {"datasets": identities, "shards": []}
        if config.follow:
            data["followed"] = [wait_for_plan(url, stop) for url in config.datasets]
        for url, follows in zip(config.datasets, data.get("followed", repeat(False)), strict=False):
            data["shards"].append([] if follows else committed_shards(url))
        store.put(run_key(name, "data.json"), json.dumps(data).encode())
        return
    if len(there["shards"]) != len(identities):
        message = f"run {name} reads {len(there['shards'])} datasets, not {len(identities)}; name another run"
        raise AlreadyExists(message, field="datasets")
    # A run that started before identities were written has none to compare.
    for before, now in zip(there.get("datasets", identities), identities, strict=True):
        if before != now:
            message = (
                f"run {name} started on the dataset {before}, and there is {now} in its place; "
                "name another run, or give the dataset that it started on"
            )
            raise AlreadyExists(message, field="datasets")


def _claim(store: Store, name: str, config: TrainConfig) -> None:
    """Writes the run's configuration; later, checks that it is the same but for what is free to change.

    More steps than it was started with lengthen it: its rates follow the longer schedule from then on.
    """
    key = run_key(name, "config.json")
    content = (config.model_dump_json(indent=1) + "\n").encode()
    if store.put(key, content, if_absent=True):
        return
    there = parse_train_config(store.get(key).decode())
    before, now = (_settings(c) for c in (there, config))
    different = [setting for setting in {**before, **now} if before.get(setting) != now.get(setting)]
    if different == ["steps"] and config.steps > there.steps:
        console.print(f"{config.run}: lengthened from {there.steps:,} to {config.steps:,} steps")
        store.put(key, content)
        return
    if different:
        field = different[0]
        message = (
            f"run {name} is there with {field} = {before.get(field)}, not {now.get(field)}; "
            "name another run, or start it with the settings it has"
        )
        raise AlreadyExists(message, field=field)


def with_kept_tokenizer(config: TrainConfig, run: str) -> TrainConfig:
    """The configuration with the tokenizer that the run at this URL keeps, if it has one of its own."""
    if not config.method.needs().tokenizer:
        return config
    method = config.method.with_tokenizer(f"{run.rstrip('/')}/{_TOKENIZER}")
    return config.model_copy(update={"method": method})


def _claim_tokenizer(store: Store, name: str, config: TrainConfig) -> None:
    """Keeps a copy, since the towers are nothing without it; later, checks that it is the same."""
    where, key = config.method.needs().tokenizer, run_key(name, _TOKENIZER)
    if not where:
        return
    try:
        load_tokenizer(where)
        content = read_tokenizer(where)
    except NotFound:
        if store.exists(key):
            return
        raise
    if not store.put(key, content, if_absent=True) and store.get(key) != content:
        message = f"run {name} was started with another tokenizer than {where}; name another run"
        raise AlreadyExists(message, field="method.text.tokenizer")


def _settings(config: TrainConfig) -> dict[str, Any]:
    """What decides what is learnt, by dotted key."""
    if config.method.needs().tokenizer:
        # Wherever it lies now: what is in it is compared by itself.
        config = config.model_copy(update={"method": config.method.with_tokenizer("one of its own")})
    return dotted(config.model_dump(exclude=_FREE))


def _read_json(store: Store, key: str) -> dict[str, Any] | None:
    try:
        content: dict[str, Any] = json.loads(store.get(key))
    except NotFound:
        return None
    return content
