"""The loss against a double loop in float64, pytorch-metric-learning's SupCon loss, and known constants."""

import math
from contextlib import suppress
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from beartype import beartype
from hypothesis import given, settings
from hypothesis import strategies as st
from jaxtyping import jaxtyped
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from stablerep.errors import InvalidInput
from stablerep.objectives import multi_positive_loss
from stablerep.objectives.multi_positive import _products
from tests.memory import LiveBytes

checked_loss = jaxtyped(typechecker=beartype)(multi_positive_loss)


def double_loop(embeddings: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """The formula, one pair at a time: cross entropy between uniform-over-positives and the softmax."""
    z = F.normalize(embeddings, dim=1)
    total = embeddings.new_zeros(())
    for i in range(len(z)):
        others = [j for j in range(len(z)) if j != i]
        positives = [j for j in others if labels[j] == labels[i]]
        logits = {j: z[i] @ z[j] / temperature for j in others}
        for p in positives:
            denominator = torch.stack([logits[j].exp() for j in others]).sum()
            total = total - (logits[p].exp() / denominator).log() / len(positives)
    return total / len(z)


def value_and_gradient(loss, embeddings: Tensor) -> tuple[Tensor, Tensor]:
    leaf = embeddings.clone().requires_grad_()
    value = loss(leaf)
    (gradient,) = torch.autograd.grad(value, leaf)
    return value.detach(), gradient


def random_embeddings(rows: int, width: int = 7, seed: int = 0) -> Tensor:
    return torch.randn(rows, width, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) * 3


@settings(max_examples=25, deadline=None)
@given(
    labels=st.lists(st.integers(-2, 4), min_size=2, max_size=9),
    temperature=st.sampled_from([0.05, 0.1, 1.0]),
    chunk=st.sampled_from([1, 2, 5, None]),
    seed=st.integers(0, 1000),
)
def test_equals_the_double_loop_on_ragged_labels(labels, temperature, chunk, seed):
    target = torch.tensor(labels)
    embeddings = random_embeddings(len(labels), seed=seed)
    expected = value_and_gradient(lambda e: double_loop(e, target, temperature) + 0 * e.sum(), embeddings)
    actual = value_and_gradient(
        lambda e: checked_loss(e, target, temperature=temperature, rows_per_chunk=chunk), embeddings
    )
    torch.testing.assert_close(actual[0], expected[0], rtol=1e-10, atol=1e-10)
    torch.testing.assert_close(actual[1], expected[1], rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("views", [2, 4])
def test_equals_supcon_of_pytorch_metric_learning(views):
    labels = torch.arange(12).repeat(views)
    embeddings = random_embeddings(len(labels), 16)
    reference = SupConLoss(temperature=0.1)
    expected = value_and_gradient(lambda e: reference(e, labels), embeddings)
    actual = value_and_gradient(lambda e: multi_positive_loss(e, labels), embeddings)
    torch.testing.assert_close(actual[0], expected[0])
    torch.testing.assert_close(actual[1], expected[1])


@pytest.mark.parametrize("temperature", [0.1, 0.5])
def test_simclr_is_nt_xent_of_pytorch_metric_learning(temperature):
    """Two views of each of nine images, every image a label of its own."""
    labels = torch.arange(9).repeat(2)
    embeddings = random_embeddings(18, 8)
    reference = NTXentLoss(temperature=temperature)
    expected = value_and_gradient(lambda e: reference(e, labels), embeddings)
    actual = value_and_gradient(lambda e: multi_positive_loss(e, labels, temperature=temperature), embeddings)
    torch.testing.assert_close(actual[0], expected[0])
    torch.testing.assert_close(actual[1], expected[1])


def test_chunks_do_not_change_the_result():
    labels = torch.arange(10).repeat(6)
    embeddings = random_embeddings(60, 12)
    whole = value_and_gradient(lambda e: multi_positive_loss(e, labels, rows_per_chunk=60), embeddings)
    for chunk in (1, 7, 59):
        parts = value_and_gradient(
            lambda e, size=chunk: multi_positive_loss(e, labels, rows_per_chunk=size), embeddings
        )
        torch.testing.assert_close(parts, whole)


def test_counts_that_the_host_knows_are_those_of_the_labels():
    embeddings, labels = random_embeddings(7, 5), torch.tensor([3, 1, 3, 9, 1, 3, 2])
    views = torch.tensor([0, 0, 0, 1, 0, 1, 1])
    counts, of_views = np.array([3, 2, 3, 1, 2, 3, 1]), np.array([2, 2, 2, 1, 2, 1, 1])
    wanted = multi_positive_loss(embeddings, labels)
    assert torch.equal(multi_positive_loss(embeddings, labels, counts=counts), wanted)
    wanted = multi_positive_loss(embeddings, labels, instances=views)
    found = multi_positive_loss(embeddings, labels, instances=views, counts=of_views)
    assert torch.equal(found, wanted)
    for wrong in (of_views, counts[:6], counts + 1):
        with pytest.raises(InvalidInput, match="counts: are not how many rows"):
            multi_positive_loss(embeddings, labels, counts=wrong)


def test_a_row_without_positives_adds_nothing_but_counts_in_the_mean():
    embeddings = random_embeddings(5)
    labels = torch.tensor([3, 3, 3, 8, 9])
    expected = double_loop(embeddings, labels, 0.1)
    torch.testing.assert_close(multi_positive_loss(embeddings, labels), expected)
    all_alone, gradient = value_and_gradient(lambda e: multi_positive_loss(e, torch.arange(5)), embeddings)
    assert all_alone == 0
    assert gradient.abs().max() == 0


def test_one_row_alone_is_zero_not_nan():
    value, gradient = value_and_gradient(
        lambda e: multi_positive_loss(e, torch.tensor([0])), random_embeddings(1)
    )
    assert value == 0
    assert torch.equal(gradient, torch.zeros_like(gradient))


def test_floor_is_the_entropy_of_the_positives():
    captions, views = 8, 6
    perfect = torch.eye(captions, dtype=torch.float64).repeat(views, 1)
    labels = torch.arange(captions).repeat(views)
    sharp = multi_positive_loss(perfect, labels, temperature=0.01)
    assert sharp.item() == pytest.approx(math.log(views - 1), abs=1e-9)
    mild = multi_positive_loss(perfect, labels, temperature=0.1).item()
    negatives = captions * views - views
    assert mild == pytest.approx(math.log((views - 1) * math.exp(10) + negatives) - 10, abs=1e-9)


def test_unrelated_embeddings_start_near_the_log_of_the_candidates():
    embeddings = random_embeddings(600, 512)
    loss = multi_positive_loss(embeddings, torch.arange(100).repeat(6), temperature=1.0)
    assert loss.item() == pytest.approx(math.log(599), abs=0.01)


def test_half_precision_embeddings_are_normalised_in_float32():
    embeddings = random_embeddings(24, 32).bfloat16()
    labels = torch.arange(6).repeat(4)
    loss = multi_positive_loss(embeddings, labels)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, multi_positive_loss(embeddings.float(), labels))


def test_autocast_does_not_reach_the_logits():
    embeddings = random_embeddings(24, 32).float()
    labels = torch.arange(6).repeat(4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = multi_positive_loss(embeddings, labels)
    assert torch.equal(inside, multi_positive_loss(embeddings, labels))


def test_shapes_that_do_not_fit_are_refused():
    with pytest.raises(InvalidInput, match="labels"):
        multi_positive_loss(torch.zeros(4, 2), torch.zeros(3, dtype=torch.long))
    with pytest.raises(InvalidInput, match="temperature"):
        multi_positive_loss(torch.ones(4, 2), torch.zeros(4, dtype=torch.long), temperature=0.0)


@pytest.mark.parametrize("chunk", [None, 3])
def test_other_instances_of_a_label_are_left_out(chunk):
    labels = torch.tensor([0, 0, 1, 1, 0, 0, 2, 2, 1, 1])
    instances = torch.tensor([0, 0, 1, 1, 2, 2, 3, 3, 4, 4])  # 0 and 2 have one text, 1 and 4 another
    embeddings = random_embeddings(10).requires_grad_()
    rows = torch.nn.functional.normalize(embeddings, dim=1)
    total = torch.zeros((), dtype=torch.float64)
    for i in range(10):
        candidates = [
            j for j in range(10) if j != i and (labels[j] != labels[i] or instances[j] == instances[i])
        ]
        positives = [j for j in candidates if instances[j] == instances[i]]
        weights = torch.stack([torch.exp(rows[i] @ rows[j] / 0.2) for j in candidates]).sum()
        total = total - sum(rows[i] @ rows[j] / 0.2 - weights.log() for j in positives) / len(positives) / 10
    (expected,) = torch.autograd.grad(total, embeddings)

    def loss(values: Tensor) -> Tensor:
        return multi_positive_loss(values, labels, temperature=0.2, instances=instances, rows_per_chunk=chunk)

    value, gradient = value_and_gradient(loss, embeddings.detach())
    assert value == pytest.approx(float(total.detach()), abs=1e-9)
    assert torch.allclose(gradient, expected, atol=1e-9)


def test_instances_of_one_each_are_the_labels_own():
    labels = torch.tensor([0, 0, 1, 1])
    values = random_embeddings(4)
    assert torch.equal(
        multi_positive_loss(values, labels), multi_positive_loss(values, labels, instances=labels + 7)
    )


class TF32(TorchDispatchMode):
    """Matrix products see ten bits of their factors' fractions, the rest cut off, as tensor cores do."""

    def __torch_dispatch__(self, operation, types, args=(), kwargs=None):
        if operation.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm_):
            *sums, left, right = args
            args = (*sums, cut(left), cut(right))
        return operation(*args, **(kwargs or {}))


def cut(factor: Tensor) -> Tensor:
    assert factor.dtype == torch.float32
    return (factor.contiguous().view(torch.int32) & ~0x1FFF).view(torch.float32)


@pytest.mark.parametrize("temperature", [0.05, 0.1, 0.5])
@pytest.mark.parametrize("spread", [0.2, 1.0, 10.0])  # of a caption's images, beside captions 1 apart
def test_short_factors_move_the_loss_less_than_is_promised(temperature, spread):
    labels = torch.arange(100).repeat(6)
    captions = random_embeddings(100, 256, seed=1).repeat(6, 1)
    embeddings = (captions + spread * random_embeddings(600, 256)).float()

    def loss(values: Tensor) -> Tensor:
        return multi_positive_loss(values, labels, temperature=temperature, rows_per_chunk=250)

    value, gradient = value_and_gradient(loss, embeddings)
    with TF32():
        short_value, short_gradient = value_and_gradient(loss, embeddings)
    assert short_value != value
    assert abs(short_value - value) < 2**-9 / temperature
    _, of_rounded = value_and_gradient(loss, embeddings.bfloat16().float())
    moved, moved_by_rounding = ((other - gradient).norm() for other in (short_gradient, of_rounded))
    assert 0 < moved < moved_by_rounding


def test_memory_is_a_few_times_the_embeddings_and_one_chunk():
    """As 65,536 rows of 256 on a GPU, in an eighth of the size: 128 MiB of logits are twice the rows."""
    rows, size = 8190, 8190 * 256 * 4
    labels = torch.arange(rows) % (rows // 6)
    embeddings = torch.randn(rows, 256, requires_grad=True)
    with LiveBytes() as bytes_:
        multi_positive_loss(embeddings, labels, rows_per_chunk=512).backward()
    assert bytes_.most < 5.1 * size  # and the embeddings themselves: 6.1 times 64 MiB are 409 MB


@pytest.mark.parametrize("before", ["highest", "high"])
@pytest.mark.parametrize(("tf32", "inside"), [(True, "high"), (False, "highest")])
def test_a_gpu_is_told_which_products_it_takes_and_the_process_keeps_its_own(before, tf32, inside):
    on_gpu = SimpleNamespace(device=SimpleNamespace(type="cuda"), dtype=torch.float32)
    own = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision(before)
    try:
        with suppress(ZeroDivisionError), _products(on_gpu, tf32=tf32):
            assert torch.get_float32_matmul_precision() == inside
            raise ZeroDivisionError
        assert torch.get_float32_matmul_precision() == before
        with _products(torch.zeros(1), tf32=tf32):  # a CPU has other ideas of "high"
            assert torch.get_float32_matmul_precision() == before
    finally:
        torch.set_float32_matmul_precision(own)
