"""What a job's index objects come to: which shards are done and how much they hold; read by many threads."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import TypeVar

from stablerep.errors import InvalidInput
from stablerep.shards.layout import shard_of
from stablerep.shards.tar import ShardIndex
from stablerep.storage.interface import Store

READERS = 16
"""Objects read at one time: a store's answers are waited for; what they say takes little of the processor."""
_CHUNK = 64  # shards that a reader takes at a time

T = TypeVar("T")


@dataclass(frozen=True)
class Totals:
    """What shards hold together."""

    groups: int = 0
    images: int = 0
    skipped: int = 0
    worker_ms: int = 0

    def __add__(self, other: "Totals") -> "Totals":
        return Totals(
            self.groups + other.groups,
            self.images + other.images,
            self.skipped + other.skipped,
            self.worker_ms + other.worker_ms,
        )

    def __sub__(self, other: "Totals") -> "Totals":
        return Totals(
            self.groups - other.groups,
            self.images - other.images,
            self.skipped - other.skipped,
            self.worker_ms - other.worker_ms,
        )


NOTHING = Totals()


def totals_of(index: ShardIndex) -> Totals:
    return Totals(len(index.groups), index.images, len(index.skipped), index.worker_ms)


class ShardBits:
    """A set of shards as Redis' bitmap has it: shard 0 is the highest bit of the first byte."""

    def __init__(self, data: bytes = b"") -> None:
        self._data = bytearray(data)

    def __bytes__(self) -> bytes:
        return bytes(self._data)

    def __contains__(self, shard: int) -> bool:
        return shard >> 3 < len(self._data) and bool(self._data[shard >> 3] & (0x80 >> (shard & 7)))

    def __len__(self) -> int:
        return int.from_bytes(self._data).bit_count()

    def __iter__(self) -> Iterator[int]:
        return (shard for shard in range(len(self._data) * 8) if shard in self)

    def add(self, shard: int) -> None:
        missing = (shard >> 3) + 1 - len(self._data)
        if missing > 0:
            self._data.extend(bytes(missing))
        self._data[shard >> 3] |= 0x80 >> (shard & 7)


def shards_below(store: Store, prefix: str, end: int) -> Iterator[int]:
    """Numbers, below `end`, of the shards that have an object with this prefix, in order."""
    for name in store.children(prefix):
        shard = number_of(prefix + name)
        if shard is not None and shard < end:
            yield shard


def number_of(key: str) -> int | None:
    """The number of the shard that an object belongs to; None for what others left beside ours."""
    try:
        return shard_of(key)
    except InvalidInput:
        return None


def gapless(shards: Iterable[int]) -> int:
    """How many there are from 0 on without a gap."""
    end = 0
    for shard in shards:
        if shard != end:
            break
        end += 1
    return end


def read_each(read: Callable[[int], T], shards: Iterable[int], check: Callable[[], None]) -> Iterator[T]:
    """`read` of every shard, in order, by several threads; a bounded number of results waits.

    Args:
        check: called now and then; what it raises ends the reading.
    """
    numbers = iter(shards)
    chunks = iter(lambda: tuple(islice(numbers, _CHUNK)), ())
    with ThreadPoolExecutor(READERS, thread_name_prefix="reader") as pool:
        waiting: deque[Future[list[T]]] = deque()

        def submit(chunk: tuple[int, ...]) -> None:
            waiting.append(pool.submit(lambda: [read(shard) for shard in chunk]))

        try:
            for chunk in islice(chunks, 2 * READERS):
                submit(chunk)
            while waiting:
                check()
                yield from waiting.popleft().result()
                for chunk in islice(chunks, 1):
                    submit(chunk)
        finally:
            for future in waiting:
                future.cancel()
