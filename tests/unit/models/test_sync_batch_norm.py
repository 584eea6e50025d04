"""Batch norm that spans ranks, in one process: equal to torch's view by view, and exchangeable with it."""

import pytest
import timm
import torch
from torch import nn

from stablerep.models import SyncBatchNorm, convert


def test_views_equal_one_call_of_batch_norm_each():
    ours, theirs = SyncBatchNorm(5), nn.BatchNorm1d(5)
    x = torch.randn(12, 5) * 4 + 7
    torch.testing.assert_close(ours(x, views=3), torch.cat([theirs(block) for block in x.chunk(3)]))
    for name, value in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], value)


@pytest.mark.parametrize(
    "options", [{"momentum": None}, {"affine": False}, {"track_running_stats": False}], ids=str
)
def test_every_kind_of_torch_batch_norm_is_matched(options):
    theirs = nn.BatchNorm2d(3, **options)
    ours = convert(nn.Sequential(nn.BatchNorm2d(3, **options)))[0]
    for training in (True, True, False):
        x = torch.randn(4, 3, 5, 5) + 1
        torch.testing.assert_close(ours.train(training)(x), theirs.train(training)(x))
    torch.testing.assert_close(ours.state_dict(), theirs.state_dict())


def test_views_differ_from_statistics_over_the_whole_batch():
    x = torch.cat([torch.randn(8, 5), torch.randn(8, 5) + 3])
    assert not torch.allclose(SyncBatchNorm(5)(x, views=2), SyncBatchNorm(5)(x, views=1))


def test_eval_uses_the_running_statistics():
    ours, theirs = SyncBatchNorm(5), nn.BatchNorm1d(5)
    for _ in range(3):
        x = torch.randn(6, 5) + 2
        ours(x), theirs(x)
    x = torch.randn(4, 5)
    torch.testing.assert_close(ours.eval()(x), theirs.eval()(x))


@pytest.mark.parametrize("name", ["resnet18", "resnetv2_50", "regnety_002"])
def test_converted_encoders_keep_their_keys_and_their_function(name):
    model = timm.create_model(name, num_classes=0)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    x = torch.randn(2, 3, 64, 64)
    expected = model.train()(x)
    model.load_state_dict(before)
    converted = convert(model)
    assert list(converted.state_dict()) == list(before)
    kinds = [type(m) for m in converted.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    assert all(issubclass(kind, SyncBatchNorm) for kind in kinds)
    torch.testing.assert_close(converted(x), expected)
    timm.create_model(name, num_classes=0).load_state_dict(converted.state_dict())
