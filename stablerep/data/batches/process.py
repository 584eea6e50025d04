"""Batches made by a process of their own, so that Python's lock is never held where a GPU is fed.

Images come through shared memory. Which batches they are does not change: a step's batch is a function of
seed and step alone. The process ends with the one that it works for, however that one ends.
"""

import os
import queue
import signal
import threading
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from multiprocessing.process import parent_process
from typing import Any

import torch
import torch.multiprocessing as multiprocessing

from stablerep.data.batches.loader import RankBatch, RankLoader
from stablerep.errors import StableRepError

MakeLoader = Callable[[], RankLoader]
"""Called in the process; what it is must be picklable, such as a `functools.partial` of a function."""
_LOOK_SECONDS = 0.5


@dataclass(frozen=True)
class _Made:
    batch: RankBatch
    damaged: dict[tuple[int, int], str]
    decoded: int


def shares_by_process(
    loader: RankLoader, make: MakeLoader, first: int, end: int, ahead: int
) -> Generator[RankBatch, None, None]:
    """The shares of steps first..end-1, those of `loader`, by a process that makes its own loader by `make`.

    What is damaged is counted by `loader.source`. Raises what making a batch raises, and StableRepError if
    the process is killed.
    """
    context = multiprocessing.get_context("spawn")
    made: Any = context.Queue(ahead)
    process = context.Process(target=_work, args=(make, first, end, made), name="feed", daemon=True)
    process.start()
    received: queue.Queue[RankBatch | BaseException] = queue.Queue(1)
    left = threading.Event()
    pinned = loader.memory == "pinned"

    def offer(item: RankBatch | BaseException) -> bool:
        while not left.is_set():
            try:
                received.put(item, timeout=_LOOK_SECONDS)
            except queue.Full:
                continue
            return True
        return False

    def receive() -> None:
        """Pins what comes while the step before runs: a copy, which releases the lock."""
        try:
            for _ in range(first, end):
                item = _next(made, process, left)
                if item is None:
                    return
                if isinstance(item, BaseException):
                    offer(item)
                    return
                loader.source.note(item.damaged, item.decoded)
                batch = item.batch
                if not offer(replace(batch, images=batch.images.pin_memory()) if pinned else batch):
                    return
        except BaseException as error:  # noqa: BLE001  raised again in the thread that consumes
            offer(error)

    thread = threading.Thread(target=receive, name="feed", daemon=True)
    thread.start()
    try:
        for _ in range(first, end):
            item = received.get()
            if isinstance(item, BaseException):
                raise item
            yield item
    finally:
        left.set()
        process.kill()  # it holds nothing that must be kept
        process.join()
        thread.join()
        made.close()


def _next(made: Any, process: Any, left: threading.Event) -> _Made | BaseException | None:
    """What the process made next, or why it makes no more; None once nobody wants it."""
    while not left.is_set():
        try:
            item: _Made | BaseException = made.get(timeout=_LOOK_SECONDS)
        except (queue.Empty, EOFError, OSError) as error:  # not Empty: killed while it handed one over
            if process.is_alive() and isinstance(error, queue.Empty):
                continue
            process.join(_LOOK_SECONDS)
            return StableRepError(
                f"the process that reads and decodes images ended (exit status {process.exitcode}); was it "
                "killed for want of memory? prefetch, decoded_bytes and the machine's shared memory "
                "(/dev/shm) decide how much it needs; load_in=thread does without it"
            )
        return item
    return None


def _work(make: MakeLoader, first: int, end: int, made: Any) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group: the other one decides
    threading.Thread(target=_end_with_parent, daemon=True).start()
    torch.set_num_threads(1)  # each of the decoding threads takes an image
    try:
        loader = make()
        told: set[tuple[int, int]] = set()
        decoded = 0
        for batch in loader.in_turn(first, end):
            damaged = {which: why for which, why in loader.source.damage().items() if which not in told}
            told.update(damaged)
            before, decoded = decoded, loader.source.counts()[1]
            made.put(_Made(batch, damaged, decoded - before))
    except (StableRepError, OSError, ValueError, RuntimeError) as error:
        made.put(error)
    threading.Event().wait()  # tensors are handed over by the process that shares them: it is killed at last


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
