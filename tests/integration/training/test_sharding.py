"""Weights spread over processes (FSDP2): the same run as on one process, killed and resumed with others."""

import threading
from collections.abc import Callable

import numpy as np
import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp

from stablerep.errors import InvalidInput
from stablerep.models.load import load_encoder
from stablerep.runs.config import TrainConfig, parse_train_config
from stablerep.storage import open_store
from stablerep.training.checkpoint import checkpoint_steps, collect_state
from stablerep.training.distributed import Ranks
from stablerep.training.learner import build_learner
from stablerep.training.loop import train
from stablerep.training.optimizer import build_optimizer
from stablerep.training.sharding import shard
from tests.integration.training.test_elastic import kill_all, start_on
from tests.integration.training.test_methods_over_ranks import free_port
from tests.integration.training.test_training import (
    configuration,
    exported,
    metrics,
    start,
    wait_for_checkpoint,
)
from tests.training import write_stripes
from tests.unit.methods.test_methods import VIT

ALONE = Ranks(0, 1, torch.device("cpu"))
STEPS = 30


@pytest.fixture
def make(tmp_path) -> Callable[..., TrainConfig]:
    """A run of a ViT in float64, with everything on that looks at the weights as a whole."""
    url = (tmp_path / "store").as_uri()
    write_stripes(url)
    photographs = tmp_path / "photographs"
    write_photographs(photographs)

    def make(run: str, **changed: object) -> TrainConfig:
        settings = {
            "encoder": VIT,
            "precision": "float64",
            "steps": STEPS,
            "log_every": 1,
            "checkpoint_every": 2,
            "average": 0.9,
            "optimizer.clip_norm": 0.5,
            "online_probe": {"every": 10, "data": str(photographs), "keep_best": True},
        }
        return configuration(url, run, **settings | changed)

    return make


def write_photographs(folder) -> None:
    from PIL import Image

    random = np.random.default_rng(0)
    for label, tone in (("dark", 60), ("light", 180)):
        (folder / label).mkdir(parents=True)
        for number in range(12):
            pixels = random.normal(tone, 30, (16, 16, 3)).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / label / f"{number}.png")


def test_killed_on_two_resumed_alone_and_on_two_again(make):
    alone = make("alone")
    train(alone, ALONE, threading.Event())

    config = make("spread", shard=True)
    first = start_on(config, 2)
    wait_for_checkpoint(config, first, beyond=4)
    kill_all(first)
    reached = max(checkpoint_steps(open_store(config.store_url), "spread"))
    assert reached < STEPS
    second = start(config)
    wait_for_checkpoint(config, second, beyond=reached)
    kill_all(second)
    third = start_on(config, 2)
    output, _ = third.communicate(timeout=250)
    assert third.returncode == 0, output

    wanted, found = metrics(alone), metrics(config)
    for name in ("loss", "gradient_norm"):
        values = (np.array([line[name] for line in lines]) for lines in (wanted, found))
        np.testing.assert_allclose(*values, rtol=0, atol=1e-6, err_msg=name)
    for name in ("probe_linear", "probe_knn"):
        assert [line[name] for line in found if name in line] == [
            line[name] for line in wanted if name in line
        ]
    for name, value in exported(alone).items():
        torch.testing.assert_close(exported(config)[name], value, rtol=0, atol=1e-5)
    assert load_encoder(config.run).model(torch.zeros(1, 3, 16, 16)).shape == (1, VIT["kwargs"]["embed_dim"])


def test_float16_is_refused(make):
    with pytest.raises(InvalidInput, match="shard: float16's loss scale"):
        make("half", shard=True, precision="float16")


def look_at_memory(rank: int, port: int, config: str, path: str) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", f"tcp://127.0.0.1:{port}", world_size=2, rank=rank)
    parsed = parse_train_config(config)
    learner = build_learner(parsed, torch.device("cpu"), 2)
    whole = sum(p.numel() for p in learner.parameters())
    shard(learner, Ranks(rank, 2, torch.device("cpu"), dist.group.WORLD))
    optimizer = build_optimizer(learner, parsed)
    for parameter in learner.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    own = sum(p.to_local().numel() for p in learner.parameters())
    averages = sum(state["exp_avg"].to_local().numel() for state in optimizer.state.values())
    kept = collect_state(learner, optimizer, keep=rank == 0)
    torch.save((whole, own, averages, len(kept)), f"{path}/{rank}.pt")
    dist.destroy_process_group()


def test_each_rank_holds_its_part_and_the_first_alone_keeps_a_copy(make, tmp_path):
    config = make("memory", shard=True, average=0.0)
    mp.spawn(look_at_memory, (free_port(), config.model_dump_json(), str(tmp_path)), nprocs=2)
    (whole, *first), (_, *second) = (torch.load(tmp_path / f"{rank}.pt") for rank in (0, 1))
    assert first[0] + second[0] == whole
    for own, averages, _ in (first, second):
        assert own == averages == pytest.approx(whole / 2, rel=0.05)
    assert first[2] > 0
    assert second[2] == 0
