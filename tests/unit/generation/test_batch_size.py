"""How a batch that did not fit into memory is made smaller, and how often a larger one is tried again."""

from stablerep.generation.batch_size import BatchSize


def test_a_gpu_that_another_process_had_filled_gets_back_to_the_full_batch() -> None:
    size = BatchSize(12)
    size.begin()
    assert size.halve()
    assert size.halve()
    assert size.now == 3
    seen = []
    for _ in range(4):
        size.begin()
        seen.append(size.now)
    assert seen == [3, 6, 12, 12]


def test_a_gpu_that_is_too_small_tries_ever_more_rarely() -> None:
    size = BatchSize(16)
    attempts = []
    for shard in range(300):
        size.begin()
        if size.now == 16:
            attempts.append(shard)
            size.halve()
    assert attempts == [0, 1, 3, 7, 15, 31, 63, 127, 191, 255]


def test_one_image_is_the_least() -> None:
    size = BatchSize(3)
    assert size.halve()
    assert size.now == 1
    assert not size.halve()
