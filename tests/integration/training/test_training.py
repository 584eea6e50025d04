"""Runs on a tiny dataset: they learn, survive being killed at any moment, and export what timm can load."""

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import psutil
import pytest
import timm
import torch
from safetensors.torch import load, load_file
from torch import Tensor

from stablerep.data import GroupDataset
from stablerep.errors import AlreadyExists, Diverged, InvalidInput
from stablerep.shards import DatasetInfo, Group, build_tar, commit_shard
from stablerep.shards import write_dataset as write_description
from stablerep.shards.layout import run_key
from stablerep.storage import open_store
from stablerep.training import TrainConfig, load_train_config
from stablerep.training.checkpoint import checkpoint_steps
from stablerep.training.distributed import Ranks
from stablerep.training.loop import train
from tests.training import CAPTIONS, IMAGES, SETTINGS, write_stripes

ALONE = Ranks(0, 1, torch.device("cpu"))


def configuration(url: str, run: str, **changed: object) -> TrainConfig:
    settings = {
        **SETTINGS,
        "run": f"{url}/runs/{run}",
        "datasets": [f"{url}/datasets/stripes"],
        "steps": 60,
        "checkpoint_every": 20,
        "log_every": 5,
    }
    if "encoder" in changed:
        settings = {key: value for key, value in settings.items() if not key.startswith("encoder.")}
    return load_train_config("demo", settings | changed)


def metrics(config: TrainConfig) -> list[dict[str, float]]:
    content = open_store(config.store_url).get(run_key(config.run_name, "metrics.jsonl"))
    return [json.loads(line) for line in content.splitlines()]


def exported(config: TrainConfig) -> dict[str, Tensor]:
    return load(open_store(config.store_url).get(run_key(config.run_name, "export/model.safetensors")))


@pytest.fixture
def local_url(tmp_path) -> str:
    url = (tmp_path / "store").as_uri()
    write_stripes(url)
    return url


def start(config: TrainConfig, *launcher: str) -> subprocess.Popen:
    arguments = ["services.trainer", "--config-json", config.model_dump_json()]
    return subprocess.Popen(
        [sys.executable, "-m", *launcher, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def train_verb(config: TrainConfig, folder: Path, *before: str) -> subprocess.Popen:
    """`stablerep train --processes 2`, run by the command `before`."""
    (folder / "train.yaml").write_text(config.model_dump_json())
    options = ["--preset", str(folder / "train.yaml"), "--processes", "2", "--run", config.run]
    command = [*before, sys.executable, "-m", "stablerep", "train", "--dataset", config.datasets[0], *options]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


def nameless_host() -> list[str]:
    """Runs a command where the host's name does not resolve, if this machine lets the test rename it."""
    program = ["unshare", "--map-root-user", "--uts", "sh", "-c", 'hostname nosuchname && exec "$@"', "sh"]
    if sys.platform != "linux" or subprocess.run([*program, "true"], check=False).returncode:
        return []
    return program


def wait_for_checkpoint(config: TrainConfig, process: subprocess.Popen, beyond: int) -> None:
    store, deadline = open_store(config.store_url), time.monotonic() + 120
    while max(checkpoint_steps(store, config.run_name), default=0) <= beyond:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_run_learns_and_exports_an_encoder_that_timm_loads(store_url, tmp_path):
    write_stripes(store_url)
    config = configuration(store_url, "first")
    result = train(config, ALONE, threading.Event())
    logged = metrics(config)
    assert [line["step"] for line in logged] == list(range(5, 61, 5))
    assert logged[-1]["loss"] < logged[0]["loss"] - 0.5
    assert result is not None
    assert result["images_distinct"] == CAPTIONS * IMAGES
    assert result["groups"] == CAPTIONS

    store = open_store(store_url)
    for name in ("config.json", "model.safetensors"):
        (tmp_path / name).write_bytes(store.get(run_key("first", f"export/{name}")))
    model = timm.create_model(f"local-dir:{tmp_path}", pretrained=True)
    expected = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(value, expected[name]) for name, value in model.state_dict().items())
    assert model.eval()(torch.zeros(2, 3, 16, 16)).shape == (2, 16)
    assert any("tfevents" in entry.key for entry in store.list("runs/first/tensorboard/"))
    assert checkpoint_steps(store, "first") == [40, 60]
    assert train(config, ALONE, threading.Event()) == result  # finished: nothing is trained again


def test_a_run_killed_and_stopped_ends_with_the_weights_of_one_left_alone(local_url):
    long = {"steps": 400, "checkpoint_every": 25}
    alone = configuration(local_url, "alone", **long)
    train(alone, ALONE, threading.Event())

    config = configuration(local_url, "troubled", **long)
    killed = start(config)
    wait_for_checkpoint(config, killed, beyond=0)
    killed.kill()
    killed.communicate()
    reached = max(checkpoint_steps(open_store(local_url), "troubled"))
    assert reached < 400

    stopped = start(config)
    wait_for_checkpoint(config, stopped, beyond=reached)
    stopped.send_signal(signal.SIGTERM)
    output, _ = stopped.communicate(timeout=60)
    assert stopped.returncode == 75, output
    assert "Go on with" in output

    result = train(config, ALONE, threading.Event())
    assert result is not None
    assert result["steps"] == 400
    for name, value in exported(alone).items():
        assert torch.equal(exported(config)[name], value), name
    compared = [[(line["step"], line["loss"]) for line in metrics(c)] for c in (alone, config)]
    assert compared[0] == compared[1]


def test_two_ranks_go_on_from_one_ranks_checkpoint_with_the_same_data(local_url, tmp_path):
    # A low rate: the last bits differ between one sum and two halves, and a high rate makes much of them.
    settings = {"steps": 20, "log_every": 1, "optimizer": {"lr": 2e-4}}
    alone = configuration(local_url, "one", **settings)
    train(alone, ALONE, threading.Event())

    config = configuration(local_url, "two", **settings)
    stop = threading.Event()
    stop.set()
    assert train(config, ALONE, stop) is None
    process = train_verb(config, tmp_path, *nameless_host())
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 0, output
    losses = [np.array([line["loss"] for line in metrics(c)]) for c in (alone, config)]
    assert len(losses[1]) == 20
    assert losses[0].std() > 0.1  # other batches would have other losses
    np.testing.assert_allclose(losses[1], losses[0], atol=2e-3)


@pytest.mark.skipif(sys.platform != "linux", reason="Linux alone ends children with their parent")
def test_ranks_end_with_a_killed_launcher_and_leave_a_checkpoint(local_url, tmp_path):
    config = configuration(local_url, "killed", steps=100_000, checkpoint_every=10)
    process = train_verb(config, tmp_path)
    wait_for_checkpoint(config, process, beyond=0)
    launcher, *ranks = psutil.Process(process.pid).children(recursive=True)
    assert len(ranks) >= 2
    launcher.kill()
    process.kill()
    process.communicate()
    _, alive = psutil.wait_procs(ranks, timeout=60)
    assert not alive
    assert max(checkpoint_steps(open_store(local_url), "killed")) > 0


def test_simclr_sees_as_many_views_from_single_images(local_url):
    config = configuration(local_url, "simclr", method="simclr", steps=10)
    assert config.captions_per_batch == 12
    result = train(config, ALONE, threading.Event())
    assert result is not None
    assert result["views"] == 240
    assert result["groups"] == CAPTIONS * IMAGES


def test_a_run_keeps_to_the_shards_it_started_with(local_url):
    config = configuration(local_url, "growing", steps=10)
    stop = threading.Event()
    stop.set()
    train(config, ALONE, stop)
    images = GroupDataset(config.datasets[0])[0].encoded
    commit_shard(open_store(local_url), "stripes", 9, build_tar([Group(999, "late", images)]))
    result = train(config, ALONE, threading.Event())
    assert result is not None
    assert result["groups"] == CAPTIONS


def test_another_configuration_under_the_same_name_is_refused(local_url):
    stop = threading.Event()
    stop.set()
    train(configuration(local_url, "mine"), ALONE, stop)
    with pytest.raises(AlreadyExists, match=r"method\.temperature"):
        train(configuration(local_url, "mine", **{"method.temperature": 0.2}), ALONE, stop)


def describe(url: str, name: str = "stripes", digest: str = "d1", seed: int = 0) -> None:
    info = DatasetInfo(
        name=name,
        recipe={},
        recipe_digest=digest,
        job_seed=seed,
        captions_per_shard=8,
        source={},
        create_time=datetime.now(UTC),
    )
    write_description(open_store(url), info)


def begin(config: TrainConfig) -> None:
    """Starts the run and stops it at its first step."""
    stop = threading.Event()
    stop.set()
    assert train(config, ALONE, stop) is None


@pytest.mark.parametrize("change", [{"digest": "d2"}, {"seed": 1}])
def test_a_run_is_not_resumed_on_a_dataset_made_anew_under_the_same_name(local_url, change):
    describe(local_url)
    config = configuration(local_url, "mine")
    begin(config)
    begin(config)
    describe(local_url, **change)
    with pytest.raises(AlreadyExists, match=str(*change.values())) as caught:
        begin(config)
    assert caught.value.field == "datasets"


def test_a_run_is_not_resumed_on_other_or_more_datasets(local_url):
    config = configuration(local_url, "mine")
    begin(config)
    root = Path(local_url.removeprefix("file://"))
    shutil.copytree(root / "datasets/stripes", root / "datasets/other")
    for names in (["other"], ["stripes", "other"]):
        with pytest.raises(AlreadyExists) as caught:
            begin(configuration(local_url, "mine", datasets=[f"{local_url}/datasets/{n}" for n in names]))
        assert caught.value.field == "datasets"


def test_a_run_goes_on_when_its_dataset_has_moved_to_another_store(local_url, tmp_path):
    describe(local_url)
    begin(configuration(local_url, "mine"))
    shutil.move(tmp_path / "store/datasets/stripes", tmp_path / "elsewhere/datasets/stripes")
    begin(configuration(local_url, "mine", datasets=[f"file://{tmp_path}/elsewhere/datasets/stripes"]))


def test_a_run_begun_before_datasets_were_identified_goes_on(local_url):
    describe(local_url)
    config = configuration(local_url, "old")
    begin(config)
    store, key = open_store(local_url), run_key("old", "data.json")
    data = json.loads(store.get(key))
    assert [dataset["name"] for dataset in data.pop("datasets")] == ["stripes"]
    store.put(key, json.dumps(data).encode())
    begin(config)


def test_every_rank_ends_with_the_first_ranks_error(local_url):
    begin(configuration(local_url, "mine"))
    config = configuration(local_url, "mine", **{"method.temperature": 0.2})
    process = start(config, "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m")
    output, _ = process.communicate(timeout=200)
    assert process.returncode == 1
    assert output.count("error: run mine is there with method.temperature") == 2, output
    assert "RuntimeError" not in output
    assert "trainer/__main__.py" not in output  # no traceback of a rank, only the launcher's own


def test_a_loss_that_is_no_number_ends_the_run_with_its_last_checkpoint_kept(local_url):
    config = configuration(
        local_url, "diverging", optimizer={"lr": 1e36, "warmup_steps": 30}, checkpoint_every=1
    )
    with pytest.raises(Diverged, match=r"optimizer\.lr"):
        train(config, ALONE, threading.Event())
    store = open_store(local_url)
    step = max(checkpoint_steps(store, "diverging"))
    state = load(store.get(run_key("diverging", f"checkpoints/{step:08d}/state-000.safetensors")))
    assert step < 60
    assert all(value.isfinite().all() for name, value in state.items() if name.startswith("model."))


def test_captions_that_ranks_cannot_share_equally_are_refused(local_url):
    config = configuration(local_url, "uneven")
    with pytest.raises(InvalidInput, match="8 captions"):
        train(config, Ranks(0, 3, torch.device("cpu")), threading.Event())


def test_a_configuration_file_reaches_the_process(local_url, tmp_path):
    config = configuration(local_url, "from-file", steps=2)
    file = Path(tmp_path / "run.yaml")
    file.write_text(config.model_dump_json())  # JSON is YAML
    command = [sys.executable, "-m", "services.trainer", "--config", str(file), "--set", "steps=3"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "3 steps" in done.stdout
    missing = subprocess.run(
        [*command[:-1], "datasets=[/nowhere/datasets/x]"], capture_output=True, text=True
    )
    assert missing.returncode == 2
    assert "error:" in missing.stderr
