"""A dataset as a sequence of groups, read from its manifest and index files with no service running."""

import logging
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from stablerep.config.names import check_dataset
from stablerep.data.corpus.opening import committed, open_pieces, usable_manifest
from stablerep.data.corpus.rows import Captions, Rows, first_with_hash
from stablerep.errors import InvalidInput, NotFound, TornObject
from stablerep.shards import Group, IndexedGroup, read_dataset, read_groups, read_images, read_index
from stablerep.shards.layout import dataset_prefix, shards_prefix
from stablerep.storage import S3Access, Store, open_store

logger = logging.getLogger("stablerep.data")
T = TypeVar("T")
Read = Callable[[list[tuple[int, IndexedGroup]], list[int]], list[T]]
"""Reads groups by their shards; told at which place of what was asked for each is."""


@dataclass(frozen=True)
class Placed:
    """A group by its shard, with the rows that say where it lies."""

    rows: Rows
    shard: int
    group: IndexedGroup


class GroupDataset(Sequence[Group]):
    """`GroupDataset("file:///data/datasets/shoes")[i]` is the i-th group, by one range read.

    Only the committed shards that there were when it was opened count, in order of caption id. `captions[i]`
    is the text of group i, `image_counts[i]` the number of its images, and `labels[i]` the index of the first
    group with that text: equal texts have one label. `shards` restricts it to these shards.

    Captions and places of images stay in the dataset's manifest, which is mapped into memory: a group takes
    six bytes of a process's own memory, where there is a manifest.
    """

    captions: Sequence[str]
    image_counts: np.ndarray  # int16 or int64 [groups]
    _told = False

    def __init__(self, url: str, *, shards: Sequence[int] | None = None, s3: S3Access | None = None) -> None:
        self.url = url.rstrip("/")
        self._store, self.name = open_dataset(self.url, s3)
        self._pieces, self._shards = open_pieces(self._store, self.name, shards)
        if not len(self._shards):
            raise _nothing_in(self._store, self.name, self.url)
        self.captions = Captions(self._pieces)
        self.image_counts = self._pieces.image_counts()

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Group:  # type: ignore[override]  # no slices: a group is a read
        """Group `index`, with its images still encoded. Raises IndexError; StoreError where reading fails."""
        return self.read([index])[0]

    def read(self, indices: Sequence[int]) -> list[Group]:
        """These groups in this order; those that lie together in a shard by one range read."""
        return self._read(
            indices,
            lambda placed, _: read_groups(self._store, self.name, placed),
            lambda at: self._without_images(indices[at]),
        )

    def images(self, indices: Sequence[int], numbers: Sequence[Sequence[int]]) -> list[list[bytes]]:
        """Of each of these groups the encoded images of such numbers; b"" for one that is not there.

        No more of a group is read than from the first to the last of them.
        """
        return self._read(
            indices,
            lambda placed, at: read_images(self._store, self.name, placed, [numbers[one] for one in at]),
            lambda at: [b""] * len(numbers[at]),
        )

    def _placed(self, indices: Sequence[int]) -> Sequence[Placed | None]:
        """Where groups lie; None for one that has no images."""
        located = [self._pieces.locate(range(len(self))[index]) for index in indices]
        return [Placed(rows, rows.shard(row), rows.group(row)) for rows, row in located]

    def _without_images(self, index: int) -> Group:
        raise NotFound(self.where(index))

    def _read(self, indices: Sequence[int], read: Read[T], without: Callable[[int], T]) -> list[T]:
        placed = {at: each for at, each in enumerate(self._placed(indices)) if each is not None}
        try:
            made = read([(each.shard, each.group) for each in placed.values()], list(placed))
        except (NotFound, TornObject):
            if not any(each.rows.in_manifest for each in placed.values()):
                raise
            made = [self._read_stale(at, each, read) for at, each in placed.items()]
        found = dict(zip(placed, made, strict=True))
        return [found[at] if at in found else without(at) for at in range(len(indices))]

    def _read_stale(self, at: int, placed: Placed, read: Read[T]) -> T:
        """A group that may not be where the manifest says."""
        try:
            return read([(placed.shard, placed.group)], [at])[0]
        except (NotFound, TornObject):
            fresh = self._in_index(placed.shard, placed.group) if placed.rows.in_manifest else None
            if fresh is None:
                raise
            return read([(placed.shard, fresh)], [at])[0]

    def counts_there(self, indices: np.ndarray) -> np.ndarray:
        """How many images these groups have."""
        return self.image_counts[indices]

    def where(self, index: int) -> str:
        """Group `index` by its caption, shard and dataset, for messages."""
        rows, row = self._pieces.locate(index)
        return f"caption {rows.ids[row]} in shard {rows.shard(row)} of {self.url}"

    def __iter__(self) -> Iterator[Group]:
        return (self[index] for index in range(len(self)))

    @property
    def shards(self) -> tuple[int, ...]:
        """The numbers of the dataset's shards that count, in order."""
        return tuple(self._shards.tolist())

    @cached_property
    def labels(self) -> np.ndarray:
        """The index of the first group with the same text, int32 or int64 [groups]."""
        return first_with_hash(self.hashes())

    def hashes(self) -> np.ndarray:
        """Of the captions, uint64 [groups]: equal for equal ones."""
        return self._pieces.hashes()

    def _in_index(self, shard: int, stale: IndexedGroup) -> IndexedGroup | None:
        """Where the shard's own index has the group, if elsewhere: the shard was made again."""
        index = read_index(self._store, self.name, shard)
        found = () if index is None else index.groups
        fresh = next((group for group in found if group.caption_id == stale.caption_id), None)
        if fresh is None or fresh == stale:
            return None
        if not self._told:
            self._told = True
            logger.warning(
                "the manifest of %s is stale: shard %d is another by now; `stablerep reconcile %s` renews it",
                self.url,
                shard,
                self.name,
            )
        return fresh


def identify(url: str) -> dict[str, Any]:
    """Which dataset it is, in whatever store a copy of it lies: name, recipe digest and job seed.

    The last two are None for shards that no job made. Raises TornObject for a broken dataset.json.
    """
    store, name = open_dataset(url.rstrip("/"))
    try:
        info = read_dataset(store, name)
    except NotFound:
        return {"name": name, "recipe_digest": None, "job_seed": None}
    return {"name": name, "recipe_digest": info.recipe_digest, "job_seed": info.job_seed}


def committed_shards(url: str, s3: S3Access | None = None) -> tuple[int, ...]:
    """The numbers of a dataset's finished shards, in order. Raises NotFound if there is none."""
    store, name = open_dataset(url.rstrip("/"), s3)
    found = committed(store, name, usable_manifest(store, name))
    if not len(found):
        raise _nothing_in(store, name, url)
    return tuple(found.tolist())


def _nothing_in(store: Store, dataset: str, url: str) -> NotFound:
    foreign = next(
        (e.key for e in store.list(dataset_prefix(dataset)) if _is_foreign_tar(e.key, dataset)), None
    )
    if foreign is not None:
        return NotFound(
            f"{url} holds tars of another kind, such as {foreign.rpartition('/')[2]}; make a dataset of "
            "img2dataset's or other WebDataset tars: stablerep import TAR... --name NAME"
        )
    return NotFound(f"no finished shard in {url}; is the job still running, and the name right?")


def _is_foreign_tar(key: str, dataset: str) -> bool:
    return key.endswith(".tar") and not re.fullmatch(r"\d{6,}\.tar", key.removeprefix(shards_prefix(dataset)))


def first_with_text(texts: Sequence[str]) -> np.ndarray:
    """For every text the index of the first one equal to it, int64 [n]."""
    first: dict[str, int] = {}
    return np.array([first.setdefault(text, index) for index, text in enumerate(texts)], dtype=np.int64)


def open_dataset(url: str, s3: S3Access | None = None) -> tuple[Store, str]:
    """The store and the name of the dataset at STORE/datasets/NAME. Raises InvalidInput for another URL."""
    root, separator, name = url.rstrip("/").rpartition("/datasets/")
    if not separator:
        message = f"{url!r} is no dataset: want STORE/datasets/NAME, such as file:///data/datasets/shoes"
        raise InvalidInput(message, field="datasets")
    return open_store(root, s3=s3), check_dataset(name)
