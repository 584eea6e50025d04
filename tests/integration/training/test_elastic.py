"""A run killed with -9 and resumed on 2, then 1, then 4 processes sees the same data and has the same losses.

In float64 on a small net: training is chaotic, and in float32 rounding grows beyond any bound that would tell
it from other data.
"""

import signal
import subprocess
import threading

import numpy as np
import psutil
import torch

from stablerep.runs.config import TrainConfig
from stablerep.storage import open_store
from stablerep.training.checkpoint import checkpoint_steps
from stablerep.training.distributed import Ranks
from stablerep.training.loop import train
from tests.integration.training.test_training import configuration, metrics, start, wait_for_checkpoint
from tests.training import write_stripes

STEPS = 60


def start_on(config: TrainConfig, processes: int) -> subprocess.Popen:
    rendezvous = ["--local-addr=127.0.0.1", "--rdzv-backend=c10d", "--rdzv-endpoint=127.0.0.1:0"]
    return start(config, "torch.distributed.run", *rendezvous, f"--nproc-per-node={processes}", "-m")


def kill_all(process: subprocess.Popen) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    for one in [*children, psutil.Process(process.pid)]:
        one.send_signal(signal.SIGKILL)
    psutil.wait_procs(children, timeout=30)
    process.communicate()


def test_kill_and_go_on_with_2_1_and_4_processes(tmp_path):
    url = (tmp_path / "store").as_uri()
    write_stripes(url)
    settings = {
        "precision": "float64",
        "steps": STEPS,
        "log_every": 1,
        "checkpoint_every": 3,
        "prefetch": 2,
    }
    alone = configuration(url, "alone", **settings)
    train(alone, Ranks(0, 1, torch.device("cpu")), threading.Event())

    config = configuration(url, "elastic", **settings)
    first = start_on(config, 2)
    wait_for_checkpoint(config, first, beyond=int(np.random.default_rng().integers(3, 15)))
    kill_all(first)
    reached = max(checkpoint_steps(open_store(url), "elastic"))
    assert reached < STEPS

    second = start_on(config, 1)
    wait_for_checkpoint(config, second, beyond=reached)
    kill_all(second)

    third = start_on(config, 4)
    output, _ = third.communicate(timeout=250)
    assert third.returncode == 0, output
    wanted, found = (np.array([line["loss"] for line in metrics(c)]) for c in (alone, config))
    assert len(found) == STEPS
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
