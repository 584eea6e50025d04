"""The groups of a block of shards as arrays, mapped from a manifest or made from indexes."""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from stablerep.shards import IndexedGroup
from stablerep.shards.block import padded, shards_of

_AT_ONCE = 4096  # captions that are turned into strings together


class Rows:
    """One block's groups, a row each. `in_manifest`: they are what a manifest says, which may be stale."""

    def __init__(self, block: pa.RecordBatch, *, in_manifest: bool) -> None:
        self.in_manifest = in_manifest
        shards = shards_of(block)
        self.numbers = np.array(shards.numbers, dtype=np.int64)
        self.ends = np.cumsum(shards.groups, dtype=np.int64)
        self.ids = block.column("caption_id").to_numpy()
        self.hashes = block.column("text_hash").to_numpy()
        self.with_skipped = self.numbers[np.array(shards.skipped, dtype=np.int64) > 0]
        self._captions = block.column("caption")
        self._starts = block.column("start").to_numpy()
        lengths = block.column("lengths")
        self._first = lengths.offsets.to_numpy()
        self._lengths = lengths.values.to_numpy()

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def image_counts(self) -> np.ndarray:
        """Int16 [rows]."""
        return (np.diff(self._first) - 1).astype(np.int16)

    def shard(self, row: int) -> int:
        """The number of the shard that a row's group lies in."""
        return int(self.numbers[np.searchsorted(self.ends, row, side="right")])

    def place_of(self, shard: int) -> int | None:
        """Which of the block's shards this one is; None if it is not there."""
        place = int(np.searchsorted(self.numbers, shard))
        return place if place < len(self.numbers) and self.numbers[place] == shard else None

    def images(self, row: int) -> int:
        """How many a group has."""
        return int(self._first[row + 1] - self._first[row]) - 1

    def rows_of(self, place: int) -> tuple[int, int]:
        """The first row of the shard at this place, and the one after its last."""
        return int(self.ends[place - 1]) if place else 0, int(self.ends[place])

    def caption(self, row: int) -> str:
        return str(self._captions[row].as_py())

    def matching(self, text: str) -> np.ndarray:
        """The rows whose caption holds the text, in any case."""
        return np.flatnonzero(pc.match_substring(self._captions, text, ignore_case=True).to_numpy(False))

    def captions(self, first: int, end: int) -> Iterator[str]:
        """Those of rows first..end-1."""
        for start in range(first, end, _AT_ONCE):
            yield from self._captions.slice(start, min(_AT_ONCE, end - start)).to_pylist()

    def group(self, row: int) -> IndexedGroup:
        """The row's group, as its index has it."""
        lengths = self._lengths[self._first[row] : self._first[row + 1]].tolist()
        steps = (padded(length) for length in lengths[:-1])
        *images, content = zip(accumulate(steps, initial=int(self._starts[row])), lengths, strict=True)
        return IndexedGroup(
            caption_id=int(self.ids[row]),
            caption=self.caption(row),
            json_span=content,
            image_spans=tuple(images),
        )


@dataclass(frozen=True)
class Piece:
    """Rows first..end-1 of a block."""

    rows: Rows
    first: int
    end: int

    def __len__(self) -> int:
        return self.end - self.first


class Pieces:
    """Pieces one after the other; a group is numbered through all of them."""

    def __init__(self, pieces: Sequence[Piece]) -> None:
        self.pieces = tuple(pieces)
        self._ends = np.cumsum([len(piece) for piece in pieces], dtype=np.int64)

    def __len__(self) -> int:
        return int(self._ends[-1]) if len(self._ends) else 0

    def locate(self, index: int) -> tuple[Rows, int]:
        """The block and the row of group `index`, which is in range."""
        place = int(np.searchsorted(self._ends, index, side="right"))
        piece = self.pieces[place]
        return piece.rows, piece.end - int(self._ends[place]) + index

    def image_counts(self) -> np.ndarray:
        """Int16 [groups]."""
        parts = [piece.rows.image_counts[piece.first : piece.end] for piece in self.pieces]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.int16)

    def hashes(self) -> np.ndarray:
        """Uint64 [groups]: of the captions."""
        parts = [piece.rows.hashes[piece.first : piece.end] for piece in self.pieces]
        return np.concatenate(parts) if parts else np.empty(0, dtype=np.uint64)


class _Texts(Sequence[str]):
    """Texts of which each is made when it is asked for, by `_text` of its place."""

    @abstractmethod
    def _text(self, place: int) -> str: ...

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> list[str]: ...
    def __getitem__(self, index: int | slice) -> str | list[str]:
        if isinstance(index, slice):
            return [self._text(place) for place in range(len(self))[index]]
        return self._text(range(len(self))[index])


class Captions(_Texts):
    """The captions of pieces."""

    def __init__(self, pieces: Pieces) -> None:
        self._pieces = pieces

    def __len__(self) -> int:
        return len(self._pieces)

    def __iter__(self) -> Iterator[str]:
        for piece in self._pieces.pieces:
            yield from piece.rows.captions(piece.first, piece.end)

    def _text(self, place: int) -> str:
        rows, row = self._pieces.locate(place)
        return rows.caption(row)


class Texts(_Texts):
    """Texts in arrays of strings, which take no more memory than they have bytes."""

    def __init__(self, parts: Sequence[pa.Array]) -> None:
        self._texts = pa.chunked_array(parts, pa.large_string())

    def __len__(self) -> int:
        return len(self._texts)

    def __iter__(self) -> Iterator[str]:
        for chunk in self._texts.chunks:
            yield from chunk.to_pylist()

    def _text(self, place: int) -> str:
        return str(self._texts[place].as_py())


class Chained(_Texts):
    """Several sequences of captions as one."""

    def __init__(self, parts: Sequence[Sequence[str]]) -> None:
        self._parts = tuple(parts)

    def __len__(self) -> int:
        return sum(len(part) for part in self._parts)

    def __iter__(self) -> Iterator[str]:
        for part in self._parts:
            yield from part

    def _text(self, place: int) -> str:
        for part in self._parts:
            if place < len(part):
                return part[place]
            place -= len(part)
        raise IndexError("no such caption")


def first_with_hash(hashes: np.ndarray) -> np.ndarray:
    """For every text, by its hash, the index of the first one equal to it: int32 or int64 [n].

    Sorted by parts, so that ten million take little more memory than the answer.
    """
    labels = np.arange(len(hashes), dtype=np.int32 if len(hashes) < 2**31 else np.int64)
    bits = (len(hashes) >> 19).bit_length()
    top = top_bits(hashes, bits)
    for part in range(1 << bits):
        where = np.flatnonzero(top == part)
        _, first, place = np.unique(hashes[where], return_index=True, return_inverse=True)
        labels[where] = where[first][place]
    return labels


def top_bits(values: np.ndarray, bits: int) -> np.ndarray:
    """The highest bits, at most 16, of uint64 [n], as uint16 [n], with no copy of the values between."""
    highest = values.astype("<u8", copy=False).view("<u2")[3::4]
    return highest >> np.uint16(16 - bits) if bits else np.zeros(len(values), np.uint16)
