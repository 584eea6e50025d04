"""Writes the captions of shards in batches while the next are read, and reports them to the queue."""

import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType

from stablerep.captions import Caption
from stablerep.queue.client import Queue
from stablerep.shards.captions_file import pack_captions
from stablerep.shards.layout import captions_key
from stablerep.storage.interface import Store

BATCH_SHARDS = 512
BATCH_BYTES = 4 << 20
BATCHES = 2
"""Batches in writing: the files of one are made while those of the other are forced to disk."""
BATCH_SECONDS = 1.0
"""Seconds after which a slow source's shards are released to workers, however few they are."""


class CaptionWriter:
    """A `with` block around the shards of one job, given in order.

    The queue hears of a shard only when its captions and those of all before it are in the store, so a crash
    at any point leaves a gapless beginning, and after it at most BATCHES batches with holes.
    """

    def __init__(self, store: Store, queue: Queue, dataset: str) -> None:
        self.over = False
        """Whether the job ended meanwhile, so that planning may stop."""
        self._store = store
        self._queue = queue
        self._dataset = dataset
        self._threads = ThreadPoolExecutor(BATCHES, thread_name_prefix="caption-writer")
        self._writing: deque[Future[int]] = deque()
        self._batch: list[tuple[str, bytes]] = []
        self._end = self._bytes = 0
        self._since = time.monotonic()

    def __enter__(self) -> "CaptionWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._threads.shutdown()

    def add(self, shard: int, captions: list[Caption]) -> None:
        """Takes one more shard. Raises what went wrong with an earlier one: StoreError, Unavailable."""
        data = pack_captions(captions)
        self._batch.append((captions_key(self._dataset, shard), data))
        self._end, self._bytes = shard + 1, self._bytes + len(data)
        if (
            len(self._batch) >= BATCH_SHARDS
            or self._bytes >= BATCH_BYTES
            or time.monotonic() - self._since > BATCH_SECONDS
        ):
            self._write_behind()

    def finish(self) -> None:
        """Returns once every shard taken is in the store and in the queue. Raises StoreError, Unavailable."""
        if self._batch:
            self._write_behind()
        while self._writing:
            self._report()

    def _write_behind(self) -> None:
        if len(self._writing) == BATCHES:
            self._report()
        batch, self._batch, self._bytes, self._since = self._batch, [], 0, time.monotonic()
        self._writing.append(self._threads.submit(self._write, batch, self._end))

    def _write(self, batch: list[tuple[str, bytes]], end: int) -> int:
        self._store.put_many(batch)
        return end

    def _report(self) -> None:
        """Reports the oldest batch to the queue, once it is written."""
        end = self._writing.popleft().result()
        self.over = self._queue.set_planned(self._dataset, end).final
