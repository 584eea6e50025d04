"""Every way of attention gives the formula's result, and the fastest that works is the one that is taken."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stablerep.generation.attention import Attention, attend, fastest_ways, shape_name, ways_for

CPU_WAYS = ("torch", "math", "flash padded")


def tensors(width: int = 40, queries: int = 9, keys: int = 5, rows: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    chance = torch.Generator().manual_seed(width)
    shapes = [(rows, length, 3, width) for length in (queries, keys, keys)]
    made = [torch.randn(shape, generator=chance).transpose(1, 2) for shape in shapes]
    return made[0], made[1], made[2]


def by_formula(queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    queries, keys, values = queries.double(), keys.double(), values.double()
    weights = (queries @ keys.transpose(-1, -2) / math.sqrt(queries.shape[-1])).softmax(-1)
    return weights @ values


@pytest.mark.parametrize("way", CPU_WAYS)
@pytest.mark.parametrize("width", [8, 40, 64, 80])
def test_every_way_is_the_formula(way, width):
    given = tensors(width)
    found = attend(way, *given)
    assert found.shape == given[0].shape
    assert float((found - by_formula(*given)).abs().max()) < 1e-5
    name = shape_name(given[0], given[1])
    assert name == f"9x5x{width}"
    assert torch.equal(Attention({name: way})(*given), found)
    assert torch.equal(Attention({"1x1x1": "math"})(*given), attend("torch", *given))


def test_padding_is_tried_where_there_is_something_to_pad():
    assert ways_for(tensors(40)) == list(CPU_WAYS)
    assert ways_for(tensors(64)) == ["torch", "math"]


def test_each_shape_is_kept_with_its_most_rows():
    attention = Attention()
    attention(*tensors())
    assert attention.seen is None
    attention.seen = {}
    for rows, queries in ((1, 9), (4, 9), (2, 9), (1, 7)):
        attention(*tensors(rows=rows, queries=queries))
    assert {name: len(each[0]) for name, each in attention.seen.items()} == {"9x5x40": 4, "7x5x40": 1}


@pytest.mark.parametrize(
    ("seconds", "wanted"),
    [
        ((1.0, 0.5, 0.4), "flash padded"),
        ((1.0, 0.5, 0.6), "math"),
        ((1.0, 0.98, 1.2), None),
        ((1.0, 2.0, 3.0), None),
        ((1.0, None, 0.9), "flash padded"),
        ((1.0, 0.1, None), "math"),
    ],
)
def test_the_fastest_is_taken_if_it_is_clearly_faster(seconds, wanted):
    """None: the kernel refuses, as torch's do."""
    left = list(seconds)

    def seconds_of(work: Callable[[], Tensor]) -> float:
        assert work().shape == (2, 3, 9, 40)
        taken = left.pop(0)
        if taken is None:
            raise RuntimeError("No available kernel. Aborting execution.")
        return taken

    found = fastest_ways({"9x5x40": tensors()}, seconds_of)
    assert found == ({} if wanted is None else {"9x5x40": wanted})
    assert not left


@pytest.mark.parametrize(
    ("way", "fault"),
    [
        (0, RuntimeError("no kernel image is available for execution on the device")),
        (1, torch.OutOfMemoryError("CUDA out of memory")),
        (2, RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")),
    ],
)
def test_what_says_nothing_of_a_kernel_is_raised(way, fault):
    """Torch's own choice must work, and for want of memory a smaller batch is tried."""
    raised = [fault if number == way else None for number in range(3)]

    def seconds_of(work: Callable[[], Tensor]) -> float:
        if error := raised.pop(0):
            raise error
        return 1.0

    with pytest.raises(type(fault), match=str(fault)):
        fastest_ways({"9x5x40": tensors()}, seconds_of)


def test_a_kernel_that_the_device_lacks_is_refused_by_torch():
    with pytest.raises(RuntimeError, match="No viable backend"):
        attend("cudnn", *tensors())


def test_ways_are_timed():
    found = fastest_ways({"9x5x40": tensors()})
    assert set(found.values()) <= set(CPU_WAYS)
