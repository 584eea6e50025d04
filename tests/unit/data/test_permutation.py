"""The permutation that is computed place by place: one to one, even, and another for every key."""

import numpy as np
import pytest

from stablerep.data.batches import order as ordering
from stablerep.data.batches.order import BatchOrder, make_order
from stablerep.data.batches.permutation import KEYS, permute
from stablerep.data.corpus.positive_sets import single_images


def keys(seed: int) -> np.ndarray:
    return np.random.Philox(key=seed).random_raw(KEYS)


@pytest.mark.parametrize("length", [1, 2, 3, 4, 5, 255, 256, 257, 4095, 65_537, 300_000])
def test_every_place_is_taken_once(length):
    assert np.array_equal(np.sort(permute(np.arange(length), length, keys(1))), np.arange(length))


def test_some_places_are_those_of_all():
    length = 100_003
    some = np.random.Generator(np.random.Philox(0)).integers(0, length, 500)
    assert np.array_equal(permute(some, length, keys(2)), permute(np.arange(length), length, keys(2))[some])


def test_it_looks_like_drawing_at_random():
    """64 x 64 cells of (place, where it goes), their counts by chi-square; neighbours do not stay such."""
    length = 1 << 20
    worst = []
    for seed in range(8):
        moved = permute(np.arange(length), length, keys(seed))
        cells = np.bincount((np.arange(length) >> 14) * 64 + (moved >> 14), minlength=4096)
        # The margins are fixed, so the statistic has 63 x 63 degrees of freedom.
        worst.append((((cells - 256) ** 2 / 256).sum() - 63**2) / np.sqrt(2 * 63**2))
        steps = np.diff(moved)
        assert abs(np.mean(steps > 0) - 0.5) < 0.003
        assert np.mean(np.abs(steps) < length // 100) == pytest.approx(0.0199, abs=0.001)
    assert np.abs(worst).max() < 4


def test_fixed_points_are_as_many_as_in_a_random_one():
    found = [int((permute(np.arange(997), 997, keys(seed)) == np.arange(997)).sum()) for seed in range(500)]
    assert np.mean(found) == pytest.approx(1, abs=0.2)
    assert np.var(found) == pytest.approx(1, abs=0.35)


def test_other_keys_give_another_order():
    orders = [permute(np.arange(1000), 1000, keys(seed)) for seed in range(5)]
    for one in range(5):
        for other in range(one):
            assert np.mean(orders[one] == orders[other]) < 0.01


def with_integers(place: int, length: int, keys: list[int]) -> int:
    """The same by Python's integers, one at a time."""
    half = max(1, -(-(length - 1).bit_length() // 2))
    while True:
        left, right = place >> half, place % 2**half
        for key in keys:
            mixed = right ^ key
            for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
                mixed = (mixed ^ (mixed >> 33)) * factor % 2**64
            mixed ^= mixed >> 33
            left, right = right, left ^ (mixed % 2**half)
        place = (left << half) + right
        if place < length:
            return place


@pytest.mark.parametrize("length", [1, 2, 3, 1000, 100_000_000, 2**40 + 1])
def test_it_is_what_integers_give(length):
    places = np.random.Generator(np.random.Philox(1)).integers(0, length, 50)
    expected = [with_integers(place, length, keys(5).tolist()) for place in places.tolist()]
    assert permute(places, length, keys(5)).tolist() == expected


@pytest.mark.parametrize(("window", "length"), [(0, 1000), (64, 1000), (64, 1024)])
def test_long_orders_are_computed_and_pass_through_every_window(monkeypatch, window, length):
    monkeypatch.setattr(ordering, "_MOST_SORTED", 10)
    order = make_order(3, 0, length, window=window)
    found = order(np.arange(length))
    for first in range(0, length, window or length):
        own = found[first : first + (window or length)]
        assert sorted(own.tolist()) == list(range(first, first + len(own)))
    if window:
        starts = [tuple(found[first : first + 64] - first) for first in (0, 64, 128)]
        assert len(set(starts)) == 3
    assert not np.array_equal(found, make_order(3, 1, length, window=window)(np.arange(length)))


def test_an_epoch_of_a_long_order_sees_every_image_once(monkeypatch):
    monkeypatch.setattr(ordering, "_MOST_SORTED", 10)
    counts = np.array([3, 0, 1, 5, 2] * 40, dtype=np.int16)
    sets = single_images(counts)
    order = BatchOrder(sets, seed=4, captions=10, images_per_caption=1)
    drawn = [order.batch(step) for step in range(order.steps_per_epoch)]
    seen = {
        (int(g), int(i))
        for batch in drawn
        for g, i in zip(batch.groups[:, 0], batch.images[:, 0], strict=True)
    }
    assert seen == {(group, image) for group, count in enumerate(counts) for image in range(count)}
    assert len({label for batch in drawn for label in batch.labels.tolist()}) == counts.sum()
