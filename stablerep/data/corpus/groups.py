"""A dataset as a sequence of groups, read from its index files with no service running."""

import re
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np

from stablerep.config.names import check_dataset
from stablerep.data.corpus.spans import Spans
from stablerep.errors import InvalidInput, NotFound
from stablerep.shards import Group, read_dataset, read_group, read_index
from stablerep.shards.layout import dataset_prefix, index_prefix, shard_of, shards_prefix
from stablerep.storage import S3Access, Store, open_store

_READERS = 8  # index files read at once: on S3 each costs a round trip


class GroupDataset(Sequence[Group]):
    """`GroupDataset("file:///data/datasets/shoes")[i]` is the i-th group, by one range read.

    Only the committed shards that there were when it was opened count, in order of caption id. `captions[i]`
    is the text of group i, `image_counts[i]` the number of its images, and `labels[i]` the index of the first
    group with that text: equal texts have one label. `shards` restricts it to these shards.
    """

    def __init__(self, url: str, *, shards: Sequence[int] | None = None, s3: S3Access | None = None) -> None:
        self.url = url.rstrip("/")
        self._store, self.name = open_dataset(self.url, s3)
        found = committed_shards(self.url, s3) if shards is None else tuple(shards)
        self.shards = found
        with ThreadPoolExecutor(_READERS) as readers:
            read = list(readers.map(self._read_shard, found))
        self._spans = Spans([spans for spans, _ in read])
        self._shard_of_group = np.repeat(np.array(found), [len(spans) for spans, _ in read])
        self.captions = [caption for _, captions in read for caption in captions]
        self.image_counts = self._spans.counts
        self.labels = first_with_text(self.captions)

    def __len__(self) -> int:
        return len(self.captions)

    def __getitem__(self, index: int) -> Group:  # type: ignore[override]  # no slices: a group is a read
        """Group `index`, with its images still encoded. Raises IndexError; StoreError where reading fails."""
        position = range(len(self))[index]
        shard = int(self._shard_of_group[position])
        group = self._spans.group(position, self.captions[position])
        return read_group(self._store, self.name, shard, group)

    def counts_there(self, indices: np.ndarray) -> np.ndarray:
        """How many images these groups have."""
        return self.image_counts[indices]

    def where(self, index: int) -> str:
        """Group `index` by its caption, shard and dataset, for messages."""
        return f"caption {self._spans.ids[index]} in shard {self._shard_of_group[index]} of {self.url}"

    def __iter__(self) -> Iterator[Group]:
        return (self[index] for index in range(len(self)))

    def _read_shard(self, shard: int) -> tuple[Spans, list[str]]:
        index = read_index(self._store, self.name, shard)
        if index is None:
            raise NotFound(f"shard {shard} of {self.url} has no index; it was there before, or is asked for")
        return Spans.of(index.groups), [group.caption for group in index.groups]


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
    found = tuple(shard_of(entry.key) for entry in store.list(index_prefix(name)))
    if not found:
        foreign = next(
            (e.key for e in store.list(dataset_prefix(name)) if _is_foreign_tar(e.key, name)), None
        )
        if foreign is not None:
            raise NotFound(
                f"{url} holds tars of another kind, such as {foreign.rpartition('/')[2]}; make a dataset of "
                "img2dataset's or other WebDataset tars: stablerep import TAR... --name NAME"
            )
        raise NotFound(f"no finished shard in {url}; is the job still running, and the name right?")
    return found


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
