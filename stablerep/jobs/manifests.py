"""Keeps the manifests of jobs' datasets at what their indexes say; one process a dataset at a time."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from stablerep.queue.client import Queue
from stablerep.queue.lock import hold_within
from stablerep.shards.manifest import block_count, drop_from_manifest, update_block
from stablerep.storage.interface import Store

PATIENCE_SECONDS = 60.0
"""How long one process waits for another, which holds the lock for a block at a time."""


def update_manifest(
    store: Store,
    queue: Queue,
    dataset: str,
    planned: int,
    *,
    over: bool,
    verify: bool = False,
    blocks: Iterable[int] | None = None,
    check: Callable[[], None] = lambda: None,
) -> list[int]:
    """Brings blocks, all by default, to what the indexes say; returns those that were written or dropped.

    Args:
        planned: shards of the dataset, as far as known.
        over, verify: see `update_block`.
        check: called before each block; what it raises ends the update.
    Raises:
        NotFound: there is no such job.
    """
    changed = []
    for number in range(block_count(planned)) if blocks is None else blocks:
        check()
        with manifest_locked(queue, dataset):
            queue.state(dataset)  # or a deletion might have passed, and the block would stay behind
            if update_block(store, dataset, number, planned, over=over, verify=verify):
                changed.append(number)
    return changed


def forget_shards(store: Store, queue: Queue, dataset: str, shards: Iterable[int]) -> None:
    """Takes shards out of the manifest that are about to leave the store."""
    with manifest_locked(queue, dataset):
        drop_from_manifest(store, dataset, shards)


@contextmanager
def manifest_locked(queue: Queue, dataset: str) -> Iterator[None]:
    """Keeps other processes off the manifest during the block. Raises Unavailable."""
    problem = f"another process is at the manifest of {dataset}; try again"
    with hold_within(queue, f"sr:manifest:{dataset}", PATIENCE_SECONDS, problem):
        yield
