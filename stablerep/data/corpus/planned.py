"""The captions of a job's plan, read before its images are there."""

import logging
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

import pyarrow as pa

from stablerep.captions import Caption
from stablerep.errors import NotFound, TornObject
from stablerep.shards.captions_file import read_captions
from stablerep.shards.layout import plan_key, plan_prefix, shard_of
from stablerep.shards.plan_file import PlanFile, unpack_plan
from stablerep.storage import Store

logger = logging.getLogger("stablerep.data")
_FILES = 4  # plan files read at once
_READERS = 32  # captions objects read at once: on S3 each costs a round trip
_AT_ONCE = 1000  # shards whose captions are put into one array


def read_plan(
    store: Store, dataset: str, shards: int, tell: Callable[[int, float], None] = lambda shards, seconds: None
) -> list[PlanFile]:
    """The captions of the first `shards` shards, in order: at least one part.

    Read from the plan's files; shards that none of them has, or one that is damaged, from their own objects.

    Args:
        tell: told how many shards are read, and for how many seconds so far, while there are more.
    Raises:
        NotFound, TornObject: of the captions of a shard.
    """
    began = time.monotonic()
    firsts = {shard_of(info.key) for info in store.list(plan_prefix(dataset))}
    ends = sorted({0, shards, *(first for first in firsts if first < shards)})
    found: list[PlanFile] = []
    with ThreadPoolExecutor(_FILES) as files, ThreadPoolExecutor(_READERS) as readers:

        def from_file(span: tuple[int, int]) -> PlanFile | None:
            return _read_file(store, dataset, *span) if span[0] in firsts else None

        spans = list(pairwise(ends))
        for (first, end), part in zip(spans, files.map(from_file, spans), strict=True):
            if part is not None:
                found.append(part)
                if end < shards:
                    tell(end, time.monotonic() - began)
                continue
            for start in range(first, end, _AT_ONCE):
                these = range(start, min(start + _AT_ONCE, end))
                found.append(
                    _of_objects(list(readers.map(lambda n: read_captions(store, dataset, n), these)))
                )
                if these.stop < shards:
                    tell(these.stop, time.monotonic() - began)
    return found or [_of_objects([])]


def _read_file(store: Store, dataset: str, first: int, end: int) -> PlanFile | None:
    """The plan's file of these shards; None if it cannot be used."""
    key = plan_key(dataset, first)
    try:
        part = unpack_plan(store.get(key))
        if len(part.sizes) != end - first:
            raise TornObject(f"{len(part.sizes)} shards where {end - first} should be")
    except NotFound:
        return None
    except TornObject as error:
        logger.warning("%s in %s is not used, each shard is read by itself: %s", key, store.url, error)
        return None
    return part


def _of_objects(shards: list[list[Caption]]) -> PlanFile:
    captions = [caption for shard in shards for caption in shard]
    ids = pa.array([caption.id for caption in captions], pa.int64())
    return PlanFile(list(map(len, shards)), ids, pa.array([c.text for c in captions], pa.large_string()))
