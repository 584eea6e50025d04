"""A run killed with -9 and resumed on 2, then 1, then 4 processes sees the same data and has the same losses.

In float64 on a small net: training is chaotic, and in float32 rounding grows beyond any bound that would tell
it from other data.
"""

import os
import signal
import subprocess
import sys
import threading

import numpy as np
import psutil
import pytest
import torch

from stablerep.runs.config import TrainConfig
from stablerep.storage import open_store
from stablerep.training.checkpoint import checkpoint_steps
from stablerep.training.distributed import Ranks
from stablerep.training.loop import train
from tests.integration.training.test_training import configuration, metrics, wait_for_checkpoint
from tests.training import write_stripes

STEPS = 60


def start(config: TrainConfig, processes: int) -> subprocess.Popen:
    launcher = ["torch.distributed.run", "--local-addr=127.0.0.1", "--rdzv-backend=c10d"]
    launcher += ["--rdzv-endpoint=127.0.0.1:0", f"--nproc-per-node={processes}", "-m"]
    arguments = ["services.trainer", "--config-json", config.model_dump_json()]
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def kill_all(process: subprocess.Popen) -> None:
    children = psutil.Process(process.pid).children(recursive=True)
    for one in [*children, psutil.Process(process.pid)]:
        one.send_signal(signal.SIGKILL)
    psutil.wait_procs(children, timeout=30)
    process.communicate()


@pytest.mark.parametrize("method", ["stablerep"])
def test_kill_and_go_on_with_2_1_and_4_processes(tmp_path, method):
    url = (tmp_path / "store").as_uri()
    write_stripes(url)
    settings = {
        "method": {"name": method, "images_per_caption": 3},
        "precision": "float64",
        "steps": STEPS,
        "log_every": 1,
        "checkpoint_every": 3,
        "prefetch": 2,
    }
    alone = configuration(url, "alone", **settings)
    train(alone, Ranks(0, 1, torch.device("cpu")), threading.Event())

    config = configuration(url, "elastic", **settings)
    first = start(config, 2)
    wait_for_checkpoint(config, first, beyond=int(np.random.default_rng().integers(3, 15)))
    kill_all(first)
    reached = max(checkpoint_steps(open_store(url), "elastic"))
    assert reached < STEPS

    second = start(config, 1)
    wait_for_checkpoint(config, second, beyond=reached)
    kill_all(second)

    third = start(config, 4)
    output, _ = third.communicate(timeout=250)
    assert third.returncode == 0, output
    wanted, found = (np.array([line["loss"] for line in metrics(c)]) for c in (alone, config))
    assert len(found) == STEPS
    np.testing.assert_allclose(found, wanted, rtol=0, atol=1e-6)
