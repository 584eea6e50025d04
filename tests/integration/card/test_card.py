"""What is done on cards with CUDA, on a stand-in for them (tests/card): devices, streams, memory, processes.

Each test is a process or two of its own: the stand-in takes CUDA's place before torch is loaded.
"""

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from stablerep.generation import Generator, load_pipeline
from stablerep.local.children import WRONG_SETTINGS
from stablerep.runs.config import load_train_config
from stablerep.storage import open_store
from tests.card import build_runtime, run
from tests.card.programs import CAPTIONS, recipe_of
from tests.pipelines import make_random_pipeline
from tests.training import SETTINGS, write_stripes

pytestmark = pytest.mark.timeout(600)
MIB = 2**20


@pytest.fixture(scope="module")
def runtime(tmp_path_factory) -> Path:
    if not torch.backends.cuda.is_built():
        text = "no cards: torch's build has no CUDA"
        (pytest.fail if os.environ.get("CI") == "true" else pytest.skip)(text)
    return build_runtime(tmp_path_factory.mktemp("runtime"))


@pytest.fixture
def program(runtime, tmp_path):
    """Runs one of tests/card/programs.py; what it found."""

    def start(name: str, **settings: object) -> dict:
        printed = run(runtime, "-m", "tests.card.programs", name, str(tmp_path), **settings)
        return json.loads(printed.splitlines()[-1])

    return start


def test_the_stand_in_computes_draws_and_refuses_as_a_card_does(program):
    found = program("operations", sanitizer=1, bytes=64 * MIB)
    assert found["equal"]
    assert "expected all tensors to be on the same device" in found["mixed"]
    assert found["drawn again"]
    assert found["drawn on"]
    assert found["in order"] == ""
    assert found["race"] == "detected 1 errors"
    assert found["too much"].startswith("CUDA out of memory. Tried to allocate 256.00 MiB. GPU 0 has a total")
    assert found["kernel"] == "CUDA error: a kernel was launched, and there is no card"


def test_lanes_have_no_race_and_the_images_of_one_stream(program, tmp_path):
    """They are those of the CPU, too, but for what rounding makes of a JPEG."""
    folder = make_random_pipeline(tmp_path / "pipeline")
    found = program("generation", sanitizer=1)
    assert found["device"] == "cuda"
    assert found["lanes"]
    assert found["ahead"] == 1
    assert found["same as in line"]
    recipe = recipe_of(folder)
    on_cpu = Generator(recipe, seed=5, pipeline=load_pipeline(recipe, "cpu"))
    for group in on_cpu.generate(CAPTIONS):
        for index, image in enumerate(group.images):
            there = Image.open(tmp_path / f"{group.caption_id}-{index}.jpg")
            assert np.abs(np.asarray(there).astype(int) - np.asarray(image).astype(int)).max() <= 8


def test_where_the_cards_memory_is_short_lanes_are_given_up_and_batches_halved(program, tmp_path):
    make_random_pipeline(tmp_path / "pipeline")
    found = program("short_of_memory")
    assert found["finished"]
    assert not found["lanes"]
    assert found["batch"] == 32
    assert found["told"] == [32] * len(CAPTIONS)
    assert found["compiled"] == 32
    assert found["by graphs"] <= 8


def test_kernels_that_the_compiler_writes_make_the_plain_images_again_from_the_artifact(program, tmp_path):
    """By another process, which has nothing else of the first. Only what ptxas does is not tried."""
    make_random_pipeline(tmp_path / "pipeline", channels=(32, 32))
    first = program("compiled_generation", kernels=tmp_path / "first")
    assert first["said"][0].startswith("compiling UNet and autoencoder of ")
    assert (first["graphs"], first["graphs while used"]) == (2, 0)
    again = program("compiled_generation", kernels=tmp_path / "again")
    assert again["said"][-1].startswith("loaded the compiled networks in ")
    assert (again["graphs"], again["graphs while used"]) == (0, 0)
    assert again["artifact"] == first["artifact"]
    assert again["bytes"] == first["bytes"]
    assert first["distance"] <= 2


def test_kernels_that_the_compiler_writes_have_the_cpus_losses_and_gradients(program, tmp_path):
    found = program("compiled_methods", kernels=tmp_path / "kernels")
    assert found.pop("breaks") == {}
    assert found.pop("graphs") >= 6, "each way forwards and backwards"
    assert {name: far for name, far in found.items() if not far < 2e-4} == {}


def test_every_method_has_the_cpus_losses_and_gradients(program):
    found = program("methods")
    assert len(found) == 12
    assert {name: far for name, far in found.items() if not far < 1e-4} == {}


def test_a_batch_is_encoded_in_the_parts_that_the_allocator_has_room_for(program):
    found = program("parts", bytes=8 << 30)
    numbers, shares = zip(*found.values(), strict=True)
    assert numbers[0] == 1
    assert 1 < numbers[1] <= numbers[2] <= 8
    for share, taken in zip(found, shares, strict=True):
        assert taken < float(share)


def losses(url: str, name: str) -> list[float]:
    lines = open_store(url).get(f"runs/{name}/metrics.jsonl").decode().splitlines()
    return [json.loads(line)["loss"] for line in lines]


@pytest.fixture(scope="module")
def url(tmp_path_factory) -> str:
    made = f"file://{tmp_path_factory.mktemp('training')}"
    write_stripes(made)
    return made


def arguments(url: str, name: str, **changed: object) -> list[str]:
    settings = {**SETTINGS, "steps": 8, "log_every": 1, "datasets": [f"{url}/datasets/stripes"], **changed}
    config = load_train_config("demo", {**settings, "run": f"{url}/runs/{name}"})
    return ["services.trainer", "--config-json", config.model_dump_json()]


@pytest.fixture(scope="module")
def on_cpu(runtime, url) -> list[float]:
    """The losses of a run that has no card."""
    run(runtime, "-m", *arguments(url, "cpu"), count=0)
    return losses(url, "cpu")


@pytest.mark.parametrize("load_in", ["thread", "process"])
def test_a_run_copies_its_batches_without_a_race_and_learns_what_the_cpu_learns(
    load_in, runtime, url, on_cpu
):
    name = f"card-{load_in}"
    printed = run(runtime, "-m", *arguments(url, name, load_in=load_in), sanitizer=1)
    assert "1 process on cuda" in printed
    np.testing.assert_allclose(losses(url, name), on_cpu, rtol=1e-4)
    assert len(on_cpu) == 8
    assert all(map(math.isfinite, on_cpu))


@pytest.mark.parametrize(
    "how",
    [{}, {"shard": True}, {"compile": True}, {"compile": True, "recompute": True, "shard": True}],
    ids=lambda how: " ".join(how) or "plain",
)
def test_two_cards_learn_what_one_does(how, runtime, url, tmp_path):
    """Without batch norm, whose statistics are those of a rank. The one is never compiled."""
    vit = {"name": "vit_tiny_patch16_224", "image_size": 16}
    vit["kwargs"] = {"patch_size": 4, "embed_dim": 24, "depth": 2, "num_heads": 2, "dynamic_img_size": True}
    changed = {"encoder": vit, "encoder.kwargs": vit["kwargs"], "steps": 4}
    one, two = (f"{number}-{'-'.join(how)}" for number in ("one", "two"))
    run(runtime, "-m", *arguments(url, one, **changed))
    launcher = ["torch.distributed.run", "--local-addr=127.0.0.1", "--rdzv-backend=c10d"]
    launcher += ["--rdzv-endpoint=127.0.0.1:0", "--nproc-per-node=2", "-m"]
    kernels = tmp_path if how.get("compile") else None
    printed = run(runtime, "-m", *launcher, *arguments(url, two, **how, **changed), count=2, kernels=kernels)
    written = [path for path in tmp_path.rglob("*.py") if "@triton.jit" in path.read_text(encoding="utf-8")]
    assert bool(written) == bool(kernels)
    assert "2 processes on cuda" in printed
    assert "returned a view" not in printed, "FSDP2's warning, which is none to a user"
    np.testing.assert_allclose(losses(url, two), losses(url, one), rtol=1e-4)


def test_a_process_too_many_is_told(runtime, url):
    launcher = ["torch.distributed.run", "--local-addr=127.0.0.1", "--rdzv-backend=c10d"]
    launcher += ["--rdzv-endpoint=127.0.0.1:0", "--nproc-per-node=2", "-m"]
    printed = run(runtime, "-m", *launcher, *arguments(url, "many"), count=1, status=1)
    assert "processes: process 2 of this machine would have no GPU: it has 1" in printed


def test_a_worker_of_a_card_that_is_not_there_says_so_once(runtime, redis_url, tmp_path, monkeypatch):
    """With a status after which nobody starts it again."""
    monkeypatch.setenv("STABLEREP_REDIS_URL", redis_url)
    monkeypatch.setenv("STABLEREP_STORE_URL", str(tmp_path))
    monkeypatch.setenv("STABLEREP_GENERATOR__DEVICE", "cuda:2")
    printed = run(runtime, "-m", "services.generator", count=2, status=WRONG_SETTINGS)
    assert "generator.device: device: cuda:2 cannot be used here: CUDA error: invalid device" in printed
