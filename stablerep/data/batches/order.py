"""Which groups and images a step sees: a function of (seed, epoch, global step) alone.

A mixture takes a fixed share of every batch from each of its parts, and passes through each part by itself.

Nothing here has a position to lose: step k of a run is the same whether the run got there at once, resumed,
or runs on another number of ranks, each of which takes its slice of the global batch. Random numbers are the
raw output of Philox, whose stream numpy keeps fixed; its distributions' streams may change between versions.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property, partial

import numpy as np

from stablerep.data.batches.permutation import KEYS, permute
from stablerep.data.corpus.positive_sets import PositiveSets
from stablerep.errors import InvalidInput

ORDER, IMAGES, AUGMENTATION, MASKS, PLACES, LOCAL = range(6)  # independent streams of random numbers


_WINDOW_BATCHES = 4
_SORTED_AT_ONCE = 1 << 21
_MOST_SORTED = 1 << 24
"""Longer orders are not kept: sorting 100 million takes a minute, and their order 400 MB."""
_WINDOWS = 64


@dataclass(frozen=True)
class Batch:
    """One step's C captions with m images each: labels [C], groups and images within them [C m].

    `pools` [C] are the positive sets that they were drawn from.
    """

    step: int
    labels: np.ndarray
    groups: np.ndarray
    images: np.ndarray
    pools: np.ndarray


@dataclass(frozen=True)
class BatchOrder:
    """The batches of a run. An epoch sees every pool once, short of the last incomplete batch.

    `follow`: the first epoch takes the pools in their own order, which is that of generation, shuffled within
    windows: the first batches then need the first shards alone.
    """

    sets: PositiveSets
    seed: int
    captions: int
    images_per_caption: int
    follow: bool = False
    _orders: "_Orders" = field(default_factory=lambda: _Orders(), repr=False, compare=False)

    def __post_init__(self) -> None:
        if len(self.sets) < self.captions:
            message = (
                f"a batch wants {self.captions} captions, only {len(self.sets)} have "
                f"{self.images_per_caption} images or more; lower views_per_batch"
            )
            raise InvalidInput(message, field="views_per_batch")

    @property
    def steps_per_epoch(self) -> int:
        return len(self.sets) // self.captions

    def batch(self, step: int) -> Batch:
        """The global batch of step `step`, counted from 0 over the whole run."""
        epoch, position = divmod(step, self.steps_per_epoch)
        window = _window(len(self.sets), self.captions) if self.follow and epoch == 0 else 0
        order = self._orders.order(self.seed, epoch, len(self.sets), window=window)
        return self.drawn_from(step, order(position * self.captions + np.arange(self.captions)))

    def drawn_from(self, step: int, pools: np.ndarray) -> Batch:
        """The batch of a step with these pools, [C], in the places of its own."""
        return _draw(self.sets, self.seed, step, pools, self.images_per_caption)

    def after(self, pools: np.ndarray) -> np.ndarray:
        """What takes the place of pools that have no images, like `pools`."""
        return (pools + 1) % len(self.sets)


@dataclass(frozen=True)
class MixtureOrder:
    """The batches of a run on several datasets with weights. `parts[p]` is the dataset of pool p.

    After k steps, floor(k C w) captions have come from the datasets up to any one whose weights add up to w:
    so how many came from each before a step is known without looking at the steps before.
    """

    sets: PositiveSets
    seed: int
    captions: int
    images_per_caption: int
    parts: np.ndarray
    weights: tuple[float, ...]
    follow: bool = False
    _orders: "_Orders" = field(default_factory=lambda: _Orders(), repr=False, compare=False)

    def __post_init__(self) -> None:
        for part, weight in enumerate(self._shares):
            if self.captions * weight < 1:
                message = f"a batch of {self.captions} captions holds less than one of dataset {part + 1}"
                raise InvalidInput(f"{message}; raise its weight or views_per_batch", field="dataset_weights")
            if not (self.parts == part).any():
                message = f"no caption of dataset {part + 1} has {self.images_per_caption} images"
                raise InvalidInput(message, field="dataset_weights")

    @property
    def _shares(self) -> np.ndarray:
        return np.array(self.weights) / sum(self.weights)

    @property
    def steps_per_epoch(self) -> float:
        """Steps in which the dataset that lasts longest is passed through once."""
        sizes = np.bincount(self.parts, minlength=len(self.weights))
        return float((sizes / (self.captions * self._shares)).max())

    def batch(self, step: int) -> Batch:
        """The global batch of step `step`, counted from 0 over the whole run."""
        before, after = self._drawn(step), self._drawn(step + 1)
        chosen = np.concatenate(
            [self._pools(part, before[part], after[part]) for part in range(len(self.weights))]
        )
        # Else the first ranks would read one dataset and the last another.
        chosen = chosen[np.argsort(_raw(self.seed, PLACES, step, self.captions), kind="stable")]
        return self.drawn_from(step, chosen)

    def drawn_from(self, step: int, pools: np.ndarray) -> Batch:
        """The batch of a step with these pools, [C], in the places of its own."""
        return _draw(self.sets, self.seed, step, pools, self.images_per_caption)

    def after(self, pools: np.ndarray) -> np.ndarray:
        """What takes the place of pools that have no images: the next one of the same dataset."""
        found = np.empty_like(pools)
        for place, pool in enumerate(pools.tolist()):
            own = self._members[int(self.parts[pool])]
            found[place] = own.pool(np.array((own.place(pool) + 1) % len(own)))
        return found

    @cached_property
    def _members(self) -> list["_Members"]:
        return [_Members(self.parts, part) for part in range(len(self.weights))]

    def _drawn(self, steps: int) -> list[int]:
        """How many captions of each dataset come in the first `steps` steps."""
        total = steps * self.captions
        ends = [math.floor(total * share) for share in np.cumsum(self._shares)[:-1]]
        return np.diff([0, *ends, total]).tolist()

    def _pools(self, part: int, first: int, end: int) -> np.ndarray:
        """The pools at these places of the endless passes through a dataset."""
        own = self._members[part]
        epochs, places = np.divmod(np.arange(first, end), len(own))
        found = np.empty(end - first, dtype=np.int64)
        for epoch in np.unique(epochs).tolist():
            window = _window(len(own), self.captions) if self.follow and epoch == 0 else 0
            order = self._orders.order(self.seed, epoch, len(own), part + 1, window)
            found[epochs == epoch] = own.pool(order(places[epochs == epoch]))
        return found


class _Members:
    """The pools of one dataset, in order; those that follow one another take no memory."""

    def __init__(self, parts: np.ndarray, part: int) -> None:
        own = np.flatnonzero(parts == part)
        self._first, self._count = int(own[0]) if len(own) else 0, len(own)
        self._own = None if not len(own) or own[-1] - own[0] + 1 == len(own) else own

    def __len__(self) -> int:
        return self._count

    def pool(self, places: np.ndarray) -> np.ndarray:
        """The pools at these places, int64."""
        return places + self._first if self._own is None else self._own[places]

    def place(self, pool: int) -> int:
        return pool - self._first if self._own is None else int(np.searchsorted(self._own, pool))


def _draw(sets: PositiveSets, seed: int, step: int, pools: np.ndarray, each: int) -> Batch:
    uniform = uniforms(seed, IMAGES, step, (len(pools), each))
    images = draw_without_replacement(sets.counts[pools], uniform)
    groups, within = sets.locate(np.broadcast_to(pools[:, None], images.shape), images)
    return Batch(step, sets.labels_of(pools), groups, within, pools)


def uniforms(seed: int, stream: int, step: int, shape: tuple[int, ...]) -> np.ndarray:
    """Numbers in [0, 1), float64, that depend on (seed, stream, step) alone."""
    raw = _raw(seed, stream, step, int(np.prod(shape)))
    return ((raw >> np.uint64(11)) * 2.0**-53).reshape(shape)


def draw_without_replacement(counts: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    """For every row c as many distinct numbers of 0..counts[c]-1 as `uniform` [C m] has columns.

    The k-th is drawn among the counts-k numbers left, then moved past those already taken.
    """
    drawn = np.empty(uniform.shape, dtype=np.int64)
    for k in range(uniform.shape[1]):
        number = (uniform[:, k] * (counts - k)).astype(np.int64)
        for taken in np.sort(drawn[:, :k], axis=1).T:
            number += number >= taken
        drawn[:, k] = number
    return drawn


Order = Callable[[np.ndarray], np.ndarray]
"""What is at these places of an order: integers [n] -> int64 [n]."""


@dataclass
class _Orders:
    """The last order of each dataset of a run: one takes 4 bytes a pool, and a batch is cut out of each."""

    kept: dict[int, tuple[tuple[int, ...], Order]] = field(default_factory=dict)

    def order(self, seed: int, epoch: int, length: int, part: int = 0, window: int = 0) -> Order:
        """A permutation; with a window, of each run of so many by itself."""
        which = (seed, epoch, length, window)
        if part not in self.kept or self.kept[part][0] != which:
            self.kept.pop(part, None)  # or two would be in memory
            self.kept[part] = (which, make_order(seed, epoch, length, part, window))
        return self.kept[part][1]


def make_order(seed: int, epoch: int, length: int, part: int = 0, window: int = 0) -> Order:
    """A permutation; with a window, of each run of so many by itself."""
    if length <= _MOST_SORTED:
        order = epoch_order(seed, epoch, length, part, window)
        return lambda places: order[places].astype(np.int64)
    keys = _raw(seed, ORDER, epoch, KEYS, part)
    if not window:
        return partial(permute, length=length, keys=keys)

    def within(places: np.ndarray) -> np.ndarray:
        found = np.empty(len(places), dtype=np.int64)
        for first in np.unique(places // window * window).tolist():
            own = places // window * window == first
            size = min(window, length - first)
            # Were the keys the same, all windows of a size would have the same order.
            found[own] = first + permute(places[own] - first, size, keys + np.uint64(first))
        return found

    return within


def epoch_order(seed: int, epoch: int, length: int, part: int = 0, window: int = 0) -> np.ndarray:
    """A permutation; with a window, of each run of so many by itself. Uint32 or int64 [length]."""
    if window:
        drawn = _raw(seed, ORDER, epoch, length, part)
        return np.lexsort((drawn, np.arange(length) // window))
    # What sorting all numbers at once gives, without the memory for all of them: those with the same highest
    # bits after one another, drawn anew each time.
    order = np.empty(length, dtype=np.uint32 if length < 2**32 else np.int64)
    bits = (length // _SORTED_AT_ONCE).bit_length()
    filled = 0
    for highest in range(1 << bits):
        generator = _philox(seed, ORDER, epoch, part)
        values, places = [], []
        for start in range(0, length, _SORTED_AT_ONCE):
            drawn = generator.random_raw(min(_SORTED_AT_ONCE, length - start))
            own = np.flatnonzero(drawn >> np.uint64(64 - bits) == highest) if bits else np.arange(len(drawn))
            values.append(drawn[own])
            places.append((own + start).astype(order.dtype))
        sorted_places = np.concatenate(places)[np.argsort(np.concatenate(values), kind="stable")]
        order[filled : filled + len(sorted_places)] = sorted_places
        filled += len(sorted_places)
    return order


def _window(length: int, captions: int) -> int:
    """Captions that are shuffled together while a dataset is followed."""
    return max(_WINDOW_BATCHES * captions, length // _WINDOWS)


def _raw(seed: int, stream: int, step: int, count: int, part: int = 0) -> np.ndarray:
    return _philox(seed, stream, step, part).random_raw(count)


def _philox(seed: int, stream: int, step: int, part: int) -> np.random.Philox:
    return np.random.Philox(key=seed, counter=[0, part, stream, step])
