"""Where the groups of a dataset lie in their tars, as arrays: objects take many times the memory."""

from collections.abc import Sequence

import numpy as np

from stablerep.shards import IndexedGroup


class Spans:
    """The spans of many groups. A tar's own offsets fit into 64 bits, those within a group into 32."""

    ids: np.ndarray  # int64 [n]: caption ids
    counts: np.ndarray  # int64 [n]: images
    _starts: np.ndarray  # int64 [n]: where each group begins in its tar
    _offsets: np.ndarray  # uint32, of every image and then of the JSON: from there
    _lengths: np.ndarray  # uint32, the same

    def __init__(self, parts: Sequence["Spans"] = ()) -> None:
        self.ids = _joined([part.ids for part in parts], np.int64)
        self.counts = _joined([part.counts for part in parts], np.int64)
        self._starts = _joined([part._starts for part in parts], np.int64)
        self._offsets = _joined([part._offsets for part in parts], np.uint32)
        self._lengths = _joined([part._lengths for part in parts], np.uint32)
        self._first = np.concatenate([[0], np.cumsum(self.counts + 1)])

    @classmethod
    def of(cls, groups: Sequence[IndexedGroup]) -> "Spans":
        """Those of one shard."""
        made = cls()
        made.ids = np.array([group.caption_id for group in groups], dtype=np.int64)
        made.counts = np.array([len(group.image_spans) for group in groups], dtype=np.int64)
        spans = np.array(
            [span for group in groups for span in (*group.image_spans, group.json_span)], dtype=np.int64
        ).reshape(-1, 2)
        made._first = np.concatenate([[0], np.cumsum(made.counts + 1)])
        made._starts = np.minimum.reduceat(spans[:, 0], made._first[:-1]) if len(groups) else spans[:, 0]
        made._offsets = (spans[:, 0] - np.repeat(made._starts, made.counts + 1)).astype(np.uint32)
        made._lengths = spans[:, 1].astype(np.uint32)
        return made

    def __len__(self) -> int:
        return len(self.ids)

    def group(self, position: int, caption: str) -> IndexedGroup:
        """Group `position`, as its index has it."""
        own = slice(int(self._first[position]), int(self._first[position + 1]))
        offsets = (int(self._starts[position]) + self._offsets[own].astype(np.int64)).tolist()
        *images, content = zip(offsets, self._lengths[own].tolist(), strict=True)
        return IndexedGroup(
            caption_id=int(self.ids[position]), caption=caption, json_span=content, image_spans=tuple(images)
        )


def _joined(arrays: Sequence[np.ndarray], dtype: type) -> np.ndarray:
    return np.concatenate(arrays) if arrays else np.empty(0, dtype=dtype)
