"""What captions are drawn from: the groups of one or more datasets, pooled where their texts are equal."""

import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stablerep.data.corpus.groups import GroupDataset, first_with_text
from stablerep.data.corpus.growing import GrowingDataset
from stablerep.errors import InvalidInput


@dataclass(frozen=True)
class PositiveSets:
    """P pools of images, each with a label; a pool is one group unless words were dropped.

    The images of a pool are numbered 0..counts[p]-1 through its groups in order. `groups` lists the groups by
    pool; `ends` is the running total of their images, in the same order.
    """

    labels: np.ndarray  # int64 [P]
    counts: np.ndarray  # int64 [P]
    starts: np.ndarray  # int64 [P]: images before the pool's first
    first_groups: np.ndarray  # int64 [P]
    groups: np.ndarray  # int64 [G]
    ends: np.ndarray  # int64 [G]
    skipped: int

    def __len__(self) -> int:
        return len(self.labels)

    def locate(self, pools: np.ndarray, images: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The group, and the image within it, of image `images` of pool `pools`; arrays of one shape."""
        position = self.starts[pools] + images
        slot = np.searchsorted(self.ends, position, side="right")
        before = np.where(slot > 0, self.ends[slot - 1], 0)
        return self.groups[slot], position - before


def make_positive_sets(
    captions: Sequence[str],
    image_counts: np.ndarray,
    *,
    at_least: int,
    drop_words: Sequence[str] = (),
    parts: np.ndarray | None = None,
) -> PositiveSets:
    """The pools with `at_least` images or more; the others are counted in `skipped`.

    Without `drop_words` every group is a pool of its own, and groups with equal texts share a label. With it
    these words (whole, any case) are taken out of the texts, and groups whose texts are then equal become one
    pool, but for those of different `parts`. Raises InvalidInput if nothing is left.
    """
    texts = without_words(captions, drop_words) if drop_words else captions
    labels = first_with_text(texts)
    pool_of_group = labels if drop_words else np.arange(len(labels))
    if drop_words and parts is not None:
        pool_of_group = labels * (int(parts.max()) + 1) + parts
    order = np.argsort(pool_of_group, kind="stable")
    keys, first_slot, pool_of_slot = np.unique(pool_of_group[order], return_index=True, return_inverse=True)
    counts = np.bincount(pool_of_slot, image_counts[order], minlength=len(keys)).astype(np.int64)
    ends = np.cumsum(image_counts[order])
    starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
    kept = counts >= at_least
    if not kept.any():
        most = int(counts.max(initial=0))
        raise InvalidInput(
            f"no caption has {at_least} images to draw (the most is {most}): lower images_per_caption; "
            "single images are for method=simclr, or images_per_caption=1 with crops=2",
            field="method.images_per_caption",
        )
    first = order[first_slot]
    return PositiveSets(
        labels=labels[first][kept],
        counts=counts[kept],
        starts=starts[kept],
        first_groups=first[kept],
        groups=order,
        ends=ends,
        skipped=int(len(keys) - kept.sum()),
    )


def single_images(image_counts: np.ndarray) -> PositiveSets:
    """Every image a pool and a label of its own: what SimCLR draws from, since it knows no captions."""
    total = int(image_counts.sum())
    if not total:
        raise InvalidInput("the datasets hold no images", field="datasets")
    each, groups = np.arange(total), np.arange(len(image_counts))
    return PositiveSets(
        labels=each,
        counts=np.ones(total, np.int64),
        starts=each,
        first_groups=np.repeat(groups, image_counts),
        groups=groups,
        ends=np.cumsum(image_counts),
        skipped=0,
    )


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
    def captions(self) -> list[str]:
        return [caption for dataset in self.datasets for caption in dataset.captions]

    @property
    def image_counts(self) -> np.ndarray:
        return np.concatenate([dataset.image_counts for dataset in self.datasets])

    def encoded(self, group: int) -> tuple[bytes, ...]:
        """The encoded images of group `group`, counted through all datasets."""
        for dataset in self.datasets:
            if group < len(dataset):
                return dataset[group].encoded
            group -= len(dataset)
        raise IndexError("no such group")

    @property
    def parts(self) -> np.ndarray:
        """The dataset of every group, from 0: int64 [groups]."""
        return np.repeat(np.arange(len(self.datasets)), [len(dataset) for dataset in self.datasets])

    def where(self, group: int) -> str:
        """Group `group`, counted through all datasets, by its caption, shard and dataset."""
        for dataset in self.datasets:
            if group < len(dataset):
                return dataset.where(group)
            group -= len(dataset)
        raise IndexError("no such group")
