"""Pixels to JPEG files to a shard's tar, beside the GPU: one batch is encoded while the next is generated."""

import logging
import threading
from collections import deque
from dataclasses import dataclass

from services.generator.context import WorkerContext
from services.generator.drain import ReleaseShard
from services.generator.leased_shards import LeasedShard, ShardStage
from services.generator.metrics import count_group
from services.generator.stages.upload import Uploader
from stablerep.generation import Generator, GroupPixels
from stablerep.shards import build_tar

logger = logging.getLogger("stablerep.generator")
MAX_WAITING_BYTES = 256 << 20
"""Pixels that wait to be encoded; the GPU waits while there are more."""


@dataclass(frozen=True)
class _Work:
    """A group to encode, or with None the end of its shard."""

    shard: LeasedShard
    generator: Generator
    group_pixels: GroupPixels | None

    @property
    def size(self) -> int:
        return self.group_pixels.size if self.group_pixels else 0


class JpegEncoder:
    """A thread's work; it never waits for the network."""

    def __init__(self, worker: WorkerContext, uploader: Uploader) -> None:
        self._worker = worker
        self._uploader = uploader
        self._changed = threading.Condition()
        self._waiting: deque[_Work] = deque()
        self._bytes = 0
        self._ended = False

    def put(self, shard: LeasedShard, generator: Generator, group_pixels: GroupPixels | None) -> None:
        """A group of a shard, or None after its last. Waits while too many pixels wait already."""
        work = _Work(shard, generator, group_pixels)
        with self._changed:
            self._changed.wait_for(
                lambda: self._ended or not self._bytes or self._bytes + work.size <= MAX_WAITING_BYTES
            )
            if self._ended:
                raise ReleaseShard("the worker ends")
            self._waiting.append(work)
            self._bytes += work.size
            self._changed.notify_all()

    def end(self) -> None:
        """What waits is still encoded; nothing more comes."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def run(self) -> None:
        """Until `end`, or an unexpected error."""
        try:
            while (work := self._take()) is not None:
                if not work.shard.over:
                    with self._worker.shards.working_on(work.shard):
                        self._encode(work)
        finally:
            self.end()

    def _take(self) -> _Work | None:
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._ended)
            if not self._waiting:
                return None
            work = self._waiting.popleft()
            self._bytes -= work.size
            self._changed.notify_all()
        return work

    def _encode(self, work: _Work) -> None:
        shard = work.shard
        if work.group_pixels is not None:
            group = work.generator.encode(work.group_pixels)
            count_group(len(group.encoded))
            shard.groups.append(group)
            return
        shard.keeper.check()
        _log(shard)
        shard.tar, shard.groups = build_tar(shard.groups), []
        shard.stage = ShardStage.UPLOADING
        self._uploader.put(shard)


def _log(shard: LeasedShard) -> None:
    images = sum(len(group.encoded) for group in shard.groups)
    logger.info(
        "%s: %d groups, %d images, %d skipped, %.2f images/s",
        shard.name,
        len(shard.groups),
        images,
        sum(not group.encoded for group in shard.groups),
        images / max(shard.generate_seconds, 1e-9),
    )
