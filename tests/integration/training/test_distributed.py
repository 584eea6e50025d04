"""Two gloo processes against one process on the whole batch: same loss, same gradients, same statistics."""

import socket
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stablerep.models import ProjectionHead, convert
from stablerep.objectives import multi_positive_loss

RANKS = 2


class SmallModel(nn.Module):
    """A convolutional encoder with batch norm, and the head."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(
            nn.Conv2d(3, 6, 3, bias=False),
            nn.BatchNorm2d(6),
            nn.ReLU(),
            nn.Conv2d(6, 8, 3, stride=2),
            nn.BatchNorm2d(8),
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
        )
        self.head = ProjectionHead(8, hidden=12, out=5)

    def forward(self, images: Tensor, views: int) -> Tensor:
        return self.head(self.encoder(images), views)


def build() -> SmallModel:
    torch.manual_seed(0)
    return SmallModel().double()


def global_batch(captions: int, views: int, equal_texts: bool) -> tuple[Tensor, Tensor]:
    """Images [views captions 3 8 8] in float64 and one label a caption."""
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(views, captions, 3, 8, 8, dtype=torch.float64, generator=generator) + 2
    labels = torch.arange(captions)
    if equal_texts:
        labels[-1] = labels[0]  # on another rank than the first
    return images, labels


def loss_and_gradients(model: nn.Module, images: Tensor, labels: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    views = len(images)
    loss = multi_positive_loss(model(images.flatten(0, 1), views), labels.repeat(views))
    loss.backward()
    inner = model.module if isinstance(model, DistributedDataParallel) else model
    gradients = {name: p.grad for name, p in inner.named_parameters() if p.grad is not None}
    return loss.detach(), gradients


CASES = {  # captions in the global batch, views, whether two captions on different ranks are equal
    "four images a caption": (8, 4, False),
    "equal texts on two ranks": (8, 4, True),
    "SimCLR, one image and two crops": (12, 2, False),
}


def run_one_rank(rank: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=RANKS, rank=rank)
    outcomes = {name: one_step(*case) for name, case in CASES.items()}
    if rank == 0:
        torch.save(outcomes, Path(folder) / "outcomes.pt")
    dist.destroy_process_group()


def one_step(captions: int, views: int, equal_texts: bool) -> dict[str, Any]:
    images, labels = global_batch(captions, views, equal_texts)
    share = captions // RANKS
    mine = slice(dist.get_rank() * share, (dist.get_rank() + 1) * share)
    model = convert(build())
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    loss, gradients = loss_and_gradients(wrapped, images[:, mine], labels[mine])
    dist.all_reduce(loss)
    return {"loss": loss / RANKS, "gradients": gradients, "buffers": dict(model.named_buffers())}


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory) -> dict[str, Any]:
    """What two processes computed, a case; started once, since starting them takes longest."""
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_one_rank, (free_port(), str(folder)), nprocs=RANKS)
    return torch.load(folder / "outcomes.pt")


@pytest.mark.parametrize("case", CASES)
def test_gradients_of_two_ranks_are_those_of_the_whole_batch(outcomes, case):
    together = outcomes[case]
    model = build()
    images, labels = global_batch(*CASES[case])
    loss, gradients = loss_and_gradients(model, images, labels)

    torch.testing.assert_close(together["loss"], loss, rtol=1e-12, atol=1e-12)
    assert together["gradients"].keys() == gradients.keys()
    for name, gradient in gradients.items():
        # The bias before a batch norm has no gradient but rounding noise: compare absolutely.
        torch.testing.assert_close(together["gradients"][name], gradient, rtol=1e-9, atol=1e-11, msg=name)
    for name, buffer in model.named_buffers():
        torch.testing.assert_close(together["buffers"][name], buffer, rtol=1e-12, atol=1e-12)
