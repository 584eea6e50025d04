"""A random permutation of any length, place by place: nothing is kept of the others.

A Feistel network (Luby and Rackoff 1988) permutes the numbers of 2b bits; places that it sends beyond the
length are sent on until they are inside (cycle walking; Black and Rogaway 2002), which keeps it one to one.
"""

import numpy as np

KEYS = 8
"""Rounds of the network, each with a key; four already look random to whoever does not know them."""


def permute(places: np.ndarray, length: int, keys: np.ndarray) -> np.ndarray:
    """Where each of `places`, integers [n] of 0..length-1, goes: int64 [n]. `keys` are uint64 [KEYS]."""
    half = np.uint64(max(1, -(-(length - 1).bit_length() // 2)))
    moved = _network(places.astype(np.uint64), half, keys)
    while len(outside := np.flatnonzero(moved >= np.uint64(length))):
        moved[outside] = _network(moved[outside], half, keys)
    return moved.astype(np.int64)


def _network(numbers: np.ndarray, half: np.uint64, keys: np.ndarray) -> np.ndarray:
    """One to one on the numbers of twice `half` bits."""
    mask = (np.uint64(1) << half) - np.uint64(1)
    left, right = numbers >> half, numbers & mask
    for key in keys:
        left, right = right, left ^ (_mixed(right ^ key) & mask)
    return (left << half) | right


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Bits of which each depends on all bits of the number: the finaliser of MurmurHash3 (Appleby 2011)."""
    for factor in (np.uint64(0xFF51AFD7ED558CCD), np.uint64(0xC4CEB9FE1A85EC53)):
        numbers = (numbers ^ (numbers >> np.uint64(33))) * factor
    return numbers ^ (numbers >> np.uint64(33))
