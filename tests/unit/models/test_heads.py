"""The projection head: its shape, the paper's sizes, and statistics that never mix views."""

import torch
from torch import nn

from stablerep.models import ProjectionHead


def test_three_linear_layers_of_the_papers_sizes():
    head = ProjectionHead(768)
    sizes = [(m.in_features, m.out_features) for m in head.modules() if isinstance(m, nn.Linear)]
    assert sizes == [(768, 4096), (4096, 4096), (4096, 256)]
    assert all(m.bias is not None for m in head.modules() if isinstance(m, nn.Linear))


def test_a_view_is_embedded_as_if_the_other_views_were_not_there():
    head = ProjectionHead(6, hidden=10, out=4)
    first, second = torch.randn(8, 6), torch.randn(8, 6) * 5 + 2
    together = head(torch.cat([first, second]), views=2)
    torch.testing.assert_close(together[:8], head(first, views=1))
    torch.testing.assert_close(together[8:], head(second, views=1))


def test_equals_a_plain_mlp_for_one_view():
    head = ProjectionHead(6, hidden=10, out=4)
    plain = nn.Sequential(
        head.linear1, nn.BatchNorm1d(10), nn.ReLU(), head.linear2, nn.BatchNorm1d(10), nn.ReLU(), head.linear3
    )
    x = torch.randn(16, 6)
    torch.testing.assert_close(head(x, views=1), plain(x))
