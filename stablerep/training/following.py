"""Following a dataset while it is generated: waits that are told, shards that were given up and recorded."""

import json
import threading
import time
from collections.abc import Callable

from stablerep.data.corpus.groups import open_dataset
from stablerep.data.corpus.growing import (
    POLL_SECONDS,
    GrowingDataset,
    WaitCancelled,
    job_has_ended,
)
from stablerep.errors import NotFound, StableRepError
from stablerep.progress import console
from stablerep.shards.info import planned_shards
from stablerep.shards.layout import create_key, run_key
from stablerep.storage import Store
from stablerep.training.distributed import Ranks

_TELL_SECONDS = 15.0


def wait_for_plan(url: str, stop: threading.Event) -> bool:
    """Whether the dataset is one that a job makes, once its captions are all planned.

    Raises WaitCancelled once `stop` is set, NotFound if there is neither job nor images.
    """
    store, name = open_dataset(url)
    if not store.exists(create_key(name)):
        return False
    tell = _Telling(url)
    began = time.monotonic()
    while True:
        try:
            planned_shards(store, name)
        except NotFound:
            if job_has_ended(store, name):
                raise
            tell("the plan of its job", time.monotonic() - began)
            if stop.wait(POLL_SECONDS):
                raise WaitCancelled(f"no longer waits for the plan of {url}") from None
            continue
        return True


def follow_dataset(store: Store, run: str, number: int, url: str) -> GrowingDataset:
    """Dataset `number` of a run, of its plan; what it passed over once stays passed over."""
    prefix = run_key(run, f"passed_over/{number}-")
    known = {int(entry.key.removeprefix(prefix).removesuffix(".json")) for entry in store.list(prefix)}

    def pass_over(shard: int, why: str) -> None:
        record = json.dumps({"dataset": url, "shard": shard, "error": why}) + "\n"
        if store.put(f"{prefix}{shard:06d}.json", record.encode(), if_absent=True):
            console.print(f"passes over shard {shard} of {url}, which was given up: {why}")

    return GrowingDataset(url, passed_over=known.__contains__, pass_over=pass_over, waiting=_Telling(url))


def when_all_are_ready(
    ranks: Ranks,
    stop: Callable[[], bool],
    announce: Callable[[], None],
    displaced: Callable[[], StableRepError | None] = lambda: None,
) -> Callable[[bool], bool | None]:
    """Agrees over all ranks whether the next batch is taken: when each has made its part of it.

    Else a rank that is asked to stop while it waits would leave the others in the middle of a step. Where one
    has lost the run to another process, all raise what `displaced` gave.
    """

    def go_on(ready: bool) -> bool | None:
        error = displaced()
        all_ready, stopping, lost = ranks.sum([float(ready), float(stop()), float(error is not None)])
        if lost:
            with ranks.together():
                if error is not None:
                    raise error
        if stopping:
            announce()
            return False
        return True if all_ready == ranks.size else None

    return go_on


class _Telling:
    """Says what is waited for, now and then."""

    def __init__(self, url: str) -> None:
        self._url, self._told = url, 0.0

    def __call__(self, what: str, seconds: float) -> None:
        now = time.monotonic()
        if now - self._told > _TELL_SECONDS:
            self._told = now
            console.print(f"waits for {what}, {seconds:.0f} s so far")
