"""Every method on 1, 2 and 4 gloo processes: the losses and gradients of the whole batch.

Also encoded in parts, and with weights that are spread over the processes (FSDP2).
"""

import itertools
import socket
from functools import partial, partialmethod
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from torch import Tensor, nn

from stablerep.methods import Batch
from stablerep.methods.table import METHODS
from stablerep.models.tokenizer import load_tokenizer
from stablerep.runs.config import TrainConfig
from stablerep.training.distributed import Ranks
from stablerep.training.learner import build_learner
from stablerep.training.sharding import shard, whole
from stablerep.training.step import Backward
from tests.memory import LiveBytes
from tests.unit.methods.test_methods import configuration, local_crops

CAPTIONS, PATCHES = 8, 16
MASKED = "stablerep masked"
CASES: list[tuple[str, int | str, tuple[str, ...]]] = []
CASES += itertools.product((*METHODS, MASKED), (1, 2), ((), ("sharded",)))
CASES += itertools.product(("stablerep", "synclr"), ("auto",), ((), ("sharded",)))
CASES += itertools.product(
    ("stablerep", "mae"), (1, 2), (("compiled", "sharded"), ("compiled", "sharded", "recomputed"))
)


def settings_of(method: str, parts: int | str, **changed: Any) -> TrainConfig:
    name, _, masked = method.partition(" ")
    views = configuration(name).method.needs().views * CAPTIONS
    more = {**changed, **({"method.equal_texts": masked} if masked else {})}
    return configuration(name, views_per_batch=views, encode_parts=parts, precision="float64", **more)


def whole_batch(config: TrainConfig) -> Batch:
    """Labels with duplicates, some of them on different ranks."""
    generator = torch.Generator().manual_seed(3)
    needs = config.method.needs()
    tokens, _ = load_tokenizer()([f"a red shoe number {n}" for n in range(CAPTIONS)])
    number = needs.views
    return Batch(
        number=number,
        views=torch.randn(number * CAPTIONS, 3, 16, 16, dtype=torch.float64, generator=generator),
        labels=torch.tensor([0, 1, 0, 3, 4, 1, 6, 0]),
        tokens=tokens if needs.texts else None,
        noise=torch.rand(number * CAPTIONS, PATCHES, generator=generator) if needs.noise else None,
        **local_crops(needs, CAPTIONS, torch.float64, generator),
    )


class ScarceOnTheLast(LiveBytes):
    """Memory of which the last rank has none, and the others plenty."""

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self._last = ranks.rank == ranks.size - 1

    def limit(self) -> int:
        return 0 if self._last else 2**50


def one_step(
    method: str, parts: int | str, more: tuple[str, ...], ranks: Ranks
) -> tuple[dict[str, float], dict[str, Tensor]]:
    """The mean losses over ranks, and the gradients that an optimiser would be given."""
    if "compiled" in more:
        torch.compiler.reset()  # it compiles a function eight times at most
    config = settings_of(method, parts, compile="compiled" in more, recompute="recomputed" in more)
    learner = build_learner(config, ranks.device, ranks.size)
    if "sharded" in more:
        shard(learner, ranks)
    share = CAPTIONS // ranks.size
    mine = slice(ranks.rank * share, (ranks.rank + 1) * share)
    backward = Backward(learner, config, ranks, memory=ScarceOnTheLast(ranks))
    losses, _ = backward(whole_batch(config).captions(mine))
    assert backward.parts == (share if parts == "auto" else parts)
    names = list(losses)
    mean = [total / ranks.size for total in ranks.sum([float(losses[name].detach()) for name in names])]
    gradients = {n: whole(p.grad) for n, p in learner.named_parameters() if p.grad is not None}
    return dict(zip(names, mean, strict=True)), gradients


def run_one_rank(rank: int, size: int, port: int, folder: str) -> None:
    torch.set_num_threads(1)
    # Traced as for any backend, and run as it is: making machine code of it takes a minute here.
    nn.Module.compile = partialmethod(nn.Module.compile, backend="aot_eager")  # type: ignore[assignment]
    torch.compile = partial(torch.compile, backend="aot_eager")
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=size, rank=rank)
    ranks = Ranks(rank, size, torch.device("cpu"), dist.group.WORLD)
    outcomes = {case: one_step(*case, ranks) for case in CASES}
    if rank == 0:
        torch.save(outcomes, Path(folder) / "outcomes.pt")
    dist.destroy_process_group()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture(scope="module", params=[2, 4])
def outcomes(request, tmp_path_factory) -> dict[Any, Any]:
    folder = tmp_path_factory.mktemp("ranks")
    mp.spawn(run_one_rank, (request.param, free_port(), str(folder)), nprocs=request.param)
    return torch.load(folder / "outcomes.pt", weights_only=False)


@pytest.mark.parametrize("case", CASES, ids=lambda case: " ".join([case[0], "in", str(case[1]), *case[2]]))
def test_ranks_have_the_losses_and_gradients_of_one_process(outcomes, case):
    method = case[0]
    wanted_losses, wanted = one_step(method, 1, (), Ranks(0, 1, torch.device("cpu")))
    losses, gradients = outcomes[case]
    assert losses == pytest.approx(wanted_losses, rel=1e-9)
    assert gradients.keys() == wanted.keys()
    for name, value in wanted.items():
        bound = 1e-6 if (method, name) == ("synclr", "encoder.pos_embed") else 1e-9  # float32 in timm
        torch.testing.assert_close(gradients[name], value, rtol=max(bound, 1e-7), atol=bound, msg=name)
