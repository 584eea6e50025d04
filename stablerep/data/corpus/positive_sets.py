"""What captions are drawn from: the groups of one or more datasets, pooled where their texts are equal."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from stablerep.data.corpus.groups import GroupDataset
from stablerep.data.corpus.growing import GrowingDataset
from stablerep.data.corpus.offsets import Offsets
from stablerep.data.corpus.rows import Chained, first_with_hash
from stablerep.errors import InvalidInput
from stablerep.shards.block import text_hash

_RUN = 16  # groups that one call reads, so that several calls share what lies together


@dataclass(frozen=True)
class PositiveSets:
    """P pools of images, each with a label; a pool is one group unless words were dropped.

    The images of a pool are numbered 0..counts[p]-1 through its groups in order.
    """

    labels: np.ndarray | None  # integers [P]; None: each pool has its own, its number
    counts: np.ndarray  # integers [P]
    skipped: int
    _members: "_Groups | _Merged | _Images" = field(repr=False)

    def __len__(self) -> int:
        return len(self.counts)

    def labels_of(self, pools: np.ndarray) -> np.ndarray:
        """The label of each of these pools, int64 of the same shape."""
        return (pools if self.labels is None else self.labels[pools]).astype(np.int64)

    def of_groups(self, values: np.ndarray) -> np.ndarray:
        """What `values` [groups] say of the first group of each pool, [P]."""
        return self._members.of_groups(values)

    def locate(self, pools: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The group, and the image within it, of image `images` of pool `pools`; int64, of one shape."""
        return self._members.locate(pools, images)


@dataclass(frozen=True)
class _Groups:
    """Every pool is a group; `kept` are these groups, None: all."""

    kept: np.ndarray | None

    def locate(self, pools: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        groups = pools if self.kept is None else self.kept[pools]
        return groups.astype(np.int64), images.astype(np.int64)

    def of_groups(self, values: np.ndarray) -> np.ndarray:
        return values if self.kept is None else values[self.kept]


@dataclass(frozen=True)
class _Merged:
    """Pools are images one after the other: `starts` [P] are those before each pool's first.

    `ends` [G] is the running total of the groups' images, in the order of the pools; `groups` [G] are these
    groups.
    """

    starts: np.ndarray
    ends: np.ndarray
    groups: np.ndarray

    def locate(self, pools: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        position = self.starts[pools] + images
        slot = np.searchsorted(self.ends, position, side="right")
        before = np.where(slot > 0, self.ends[slot - 1], 0)
        return self.groups[slot], (position - before).astype(np.int64)

    def of_groups(self, values: np.ndarray) -> np.ndarray:
        return values[self.locate(np.arange(len(self.starts)), np.zeros(len(self.starts), np.int64))[0]]


@dataclass(frozen=True)
class _Images:
    """Every pool is an image."""

    offsets: Offsets

    def locate(self, pools: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return self.offsets.locate(pools + images)

    def of_groups(self, values: np.ndarray) -> np.ndarray:
        return self.offsets.repeated(values)


def make_positive_sets(labels: np.ndarray, image_counts: np.ndarray, *, at_least: int) -> PositiveSets:
    """Every group with `at_least` images or more as a pool; the others are counted in `skipped`.

    `labels` [groups] are equal where texts are. Raises InvalidInput if nothing is left.
    """
    kept = image_counts >= at_least
    _check_some(kept, image_counts, at_least)
    if kept.all():
        return PositiveSets(labels, image_counts, 0, _Groups(None))
    groups = np.flatnonzero(kept).astype(labels.dtype)
    skipped = len(labels) - len(groups)
    return PositiveSets(labels[groups], image_counts[groups], skipped, _Groups(groups))


def merged_positive_sets(
    labels: np.ndarray, image_counts: np.ndarray, *, at_least: int, parts: np.ndarray | None = None
) -> PositiveSets:
    """Groups with one label become one pool, but for those of different `parts`, where they are given.

    Raises InvalidInput if no pool has `at_least` images.
    """
    pool_of_group = labels.astype(np.int64)
    if parts is not None:
        pool_of_group = pool_of_group * (int(parts.max()) + 1) + parts
    order = np.argsort(pool_of_group, kind="stable")
    keys, first_slot, pool_of_slot = np.unique(pool_of_group[order], return_index=True, return_inverse=True)
    counts = np.bincount(pool_of_slot, image_counts[order], minlength=len(keys)).astype(np.int64)
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    kept = counts >= at_least
    _check_some(kept, counts, at_least)
    return PositiveSets(
        labels=labels[order[first_slot]][kept],
        counts=counts[kept],
        skipped=int(len(keys) - kept.sum()),
        _members=_Merged(starts[kept], np.cumsum(image_counts[order]), order),
    )


def single_images(image_counts: np.ndarray) -> PositiveSets:
    """Every image a pool and a label of its own: what SimCLR draws from, since it knows no captions."""
    total = int(image_counts.sum())
    if not total:
        raise InvalidInput("the datasets hold no images", field="datasets")
    one = np.broadcast_to(np.int64(1), (total,))
    return PositiveSets(None, one, 0, _Images(Offsets(image_counts)))


def _check_some(kept: np.ndarray, counts: np.ndarray, at_least: int) -> None:
    if not kept.any():
        most = int(counts.max(initial=0))
        raise InvalidInput(
            f"no caption has {at_least} images to draw (the most is {most}): lower images_per_caption; "
            "single images are for method=simclr, or images_per_caption=1 with crops=2",
            field="method.images_per_caption",
        )


def first_with_text(texts: Sequence[str]) -> np.ndarray:
    """For every text the index of the first one equal to it, integers [n]."""
    return first_with_hash(np.fromiter((text_hash(text) for text in texts), np.uint64, len(texts)))


def without_words(captions: Sequence[str], words: Sequence[str]) -> list[str]:
    """The captions without these words, and without the spaces that they leave."""
    pattern = re.compile(r"\b(?:" + "|".join(re.escape(word) for word in words) + r")\b", re.IGNORECASE)
    return [" ".join(pattern.sub(" ", caption).split()) for caption in captions]


@dataclass(frozen=True)
class Corpus:
    """Several datasets as one sequence of groups."""

    datasets: tuple[GroupDataset, ...]

    @property
    def growing(self) -> tuple[GrowingDataset, ...]:
        """Those that are still being generated, or were when the run began."""
        return tuple(dataset for dataset in self.datasets if isinstance(dataset, GrowingDataset))

    def counts_there(self, groups: np.ndarray) -> np.ndarray:
        """How many images groups [n], counted through all datasets, have; waits for those that grow."""
        counts = np.empty(len(groups), dtype=np.int64)
        first = 0
        for dataset in self.datasets:
            own = (groups >= first) & (groups < first + len(dataset))
            within = groups[own] - first
            counts[own] = dataset.counts_there(within)
            first += len(dataset)
        return counts

    @property
    def captions(self) -> Sequence[str]:
        return Chained([dataset.captions for dataset in self.datasets])

    @cached_property
    def image_counts(self) -> np.ndarray:
        """Integers [groups]."""
        return np.concatenate([dataset.image_counts for dataset in self.datasets])

    def labels(self) -> np.ndarray:
        """The index of the first group of all datasets with the same text, integers [groups]."""
        return first_with_hash(np.concatenate([dataset.hashes() for dataset in self.datasets]))

    def encoded(self, groups: Sequence[int]) -> list[tuple[bytes, ...]]:
        """The encoded images of groups, counted through all datasets; of one dataset, in any order.

        Those that lie together in a shard come by one range read.
        """
        dataset, within = self._within(groups)
        return [group.encoded for group in dataset.read(within)]

    def images(self, groups: Sequence[int], numbers: Sequence[Sequence[int]]) -> list[list[bytes]]:
        """Of such groups the encoded images of these numbers, a list for each: no more is read than between
        the first and the last of them."""
        dataset, within = self._within(groups)
        return dataset.images(within, numbers)

    def _within(self, groups: Sequence[int]) -> tuple[GroupDataset, list[int]]:
        first = 0
        for dataset in self.datasets:
            if groups[0] < first + len(dataset):
                return dataset, [number - first for number in groups]
            first += len(dataset)
        raise IndexError("no such group")

    def together(self, groups: np.ndarray) -> list[list[int]]:
        """Groups [n], ascending, in runs that follow one another, to be read with one call each."""
        ends = np.cumsum([len(dataset) for dataset in self.datasets])
        of = np.searchsorted(ends, groups, side="right")
        cuts = np.flatnonzero((np.diff(groups) != 1) | (np.diff(of) != 0)) + 1
        runs = (run.tolist() for run in np.split(groups, cuts))
        return [run[start : start + _RUN] for run in runs for start in range(0, len(run), _RUN)]

    @property
    def parts(self) -> np.ndarray:
        """The dataset of every group, from 0: int16 [groups]."""
        numbers = np.arange(len(self.datasets), dtype=np.int16)
        return np.repeat(numbers, [len(dataset) for dataset in self.datasets])

    def where(self, group: int) -> str:
        """Group `group`, counted through all datasets, by its caption, shard and dataset."""
        for dataset in self.datasets:
            if group < len(dataset):
                return dataset.where(group)
            group -= len(dataset)
        raise IndexError("no such group")
