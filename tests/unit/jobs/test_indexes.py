"""Sets of shards as Redis has them, gaps in listings, and reading by many threads in order."""

import threading
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stablerep.jobs.recovery.indexes import ShardBits, Totals, gapless, number_of, read_each


@given(st.sets(st.integers(0, 3000)))
def test_a_set_of_shards_is_what_was_added(shards):
    bits = ShardBits()
    for shard in shards:
        bits.add(shard)
    assert list(bits) == sorted(shards)
    assert len(bits) == len(shards)
    assert all((shard in bits) == (shard in shards) for shard in range(3100))
    assert list(ShardBits(bytes(bits))) == sorted(shards)


def test_bits_are_in_the_order_of_redis():
    bits = ShardBits()
    bits.add(0)
    bits.add(9)
    assert bytes(bits) == b"\x80\x40"


def test_a_gap_ends_what_is_written():
    assert [gapless(shards) for shards in ([], [0, 1, 2], [1, 2], [0, 1, 3, 4])] == [0, 3, 0, 2]


def test_keys_of_others_have_no_number():
    assert number_of("datasets/a/shards/000012.tar") == 12
    assert number_of("datasets/a/shards/notes.txt") is None
    assert number_of("datasets/a/index/12.json") is None


def test_totals_add_and_subtract():
    assert Totals(5, 7, 1) + Totals(1, 1, 1) - Totals(2, 3, 0) == Totals(4, 5, 2)


def test_reading_keeps_the_order_and_few_results_wait():
    waiting = []
    lock = threading.Lock()
    taken = 0
    most = 0

    def read(shard):
        nonlocal most
        with lock:
            waiting.append(shard)
            most = max(most, len(waiting) - taken)
        return shard

    for number in read_each(read, range(20_000), lambda: None):
        assert number == taken
        taken += 1
    assert taken == 20_000
    assert most < 5_000


def test_an_error_or_a_check_ends_the_reading():
    def read(shard):
        time.sleep(0.0001)
        if shard == 700:
            raise OSError("disk")
        return shard

    with pytest.raises(OSError, match="disk"):
        list(read_each(read, range(100_000), lambda: None))
    calls = []

    def check():
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        list(read_each(lambda shard: shard, range(100_000), check))
