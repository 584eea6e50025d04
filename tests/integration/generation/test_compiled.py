"""Compiled networks: the images of plain ones, the same bytes from a stored artifact, no other artifact run.

Compiling takes a minute on one core, so that one compilation, of a pipeline with few layers, serves all.
"""

import hashlib
import json
import logging
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch._dynamo.exc import BackendCompilerFailed, TorchDynamoException

from services.generator.stages import gpu
from services.health.heartbeat import Heartbeat
from stablerep.config.recipe import Recipe
from stablerep.config.settings import GeneratorSettings
from stablerep.data import GroupDataset
from stablerep.errors import TornObject
from stablerep.generation import Generator, compiled, load_pipeline
from stablerep.generation.compiled import (
    CannotCompile,
    can_compile,
    card_name,
    compile_networks,
    networks_digest,
)
from stablerep.generation.faults import compiler_faults
from stablerep.generation.remake import remake_group
from stablerep.queue.states import JobState
from stablerep.runs.records import now
from stablerep.shards import build_tar, commit_shard, read_dataset, write_dataset
from stablerep.shards.info import DatasetInfo
from stablerep.shards.layout import compiled_prefix
from stablerep.storage import open_store
from stablerep.testing.worker import plan_job
from tests.pipelines import make_random_consistency_pipeline, make_random_pipeline

CAPTIONS = ["a red shoe", "a grey boot", "a dark bag"]
MANY = CAPTIONS + [f"{caption}, model {number}" for number in range(33) for caption in CAPTIONS][:97]
pytestmark = pytest.mark.timeout(900)


def recipe_of(folder: Path, **changes: object) -> Recipe:
    settings: dict = {
        "model": str(folder),
        "dtype": "float32",
        "sampler": "ddim",
        "steps": 4,
        "guidance_scale": 2.0,
        "guidance_until": 0.5,
        "images_per_caption": 2,
        "batch_images": 4,
        "image_size": 32,
        "save_size": 32,
        "jpeg_quality": 95,
    }
    return Recipe(**{**settings, **changes})


def images(groups) -> list[np.ndarray]:
    return [np.asarray(image).astype(int) for group in groups for image in group.images]


MAKE = """
import json, sys
import torch
from torch._dynamo.utils import counters
from stablerep.config.recipe import Recipe
from stablerep.generation import Generator, compiled as compiling, load_pipeline
from stablerep.generation.attention import fastest_ways
from stablerep.generation.compiled import compile_networks
from stablerep.shards import build_tar, commit_shard
from stablerep.storage import open_store

def graphs():
    return counters["inductor"]["fxgraph_cache_miss"] + counters["inductor"]["fxgraph_cache_hit"]

recipe, store = Recipe.model_validate_json(sys.argv[1]), open_store(sys.argv[2])
pipeline = load_pipeline(recipe, "cpu")
captions = json.loads(sys.argv[3])
plain = list(Generator(recipe, seed=5, pipeline=pipeline).generate(captions[:3]))

def chosen(shapes):
    assert set(fastest_ways(shapes)) <= set(shapes)
    return dict.fromkeys(shapes, "math")  # whichever is the fastest here, another one than torch's own

compiling.fastest_ways = chosen
compiled = compile_networks(pipeline, recipe, store, lambda text: print("said", text), search=True)
made = graphs()
groups = list(Generator(recipe, seed=5, pipeline=pipeline, compiled=compiled).generate(captions))
print("graphs made", made, "while they were used", graphs() - made)
print("artifact", compiled.artifact)
for name, group in {"plain": plain, "shoes": groups}.items():
    commit_shard(store, name, 0, build_tar(group))
"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A store with an artifact, the dataset `shoes` that was made with it; `plain`, three captions without.

    Made by a process of its own, as workers are: in one that runs tests, torch names graphs otherwise.
    """
    folder = tmp_path_factory.mktemp("compiled")
    recipe = recipe_of(make_random_pipeline(folder / "pipeline", channels=(32, 32)))
    store = open_store(folder / "store")
    info = DatasetInfo(
        name="shoes",
        recipe=json.loads(recipe.model_dump_json()),
        recipe_digest=recipe.digest,
        job_seed=5,
        captions_per_shard=len(MANY),
        source={},
        create_time=now(),
    )
    write_dataset(store, info)
    output = run("-c", MAKE, recipe.model_dump_json(), store.url, json.dumps(MANY))
    plain, groups = (list(GroupDataset(f"{store.url}/datasets/{name}")) for name in ("plain", "shoes"))
    artifact = next(line.split()[1] for line in output.splitlines() if line.startswith("artifact "))
    found = {"recipe": recipe, "store": store, "plain": plain, "groups": groups}
    return {**found, "output": output, "artifact": artifact}


def run(*arguments: str) -> str:
    """What a process of its own prints."""
    done = subprocess.run(
        [sys.executable, *arguments],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    return done.stdout


def test_compiled_images_are_the_plain_ones_to_a_level(made):
    pairs = zip(images(made["groups"][:3]), images(made["plain"]), strict=True)
    differences = [np.abs(own - plain) for own, plain in pairs]
    assert max(difference.max() for difference in differences) <= 2
    assert np.mean(differences) < 0.05


def test_groups_say_by_which_artifact(made):
    digest = made["artifact"]
    assert {group.info["compiled"] for group in made["groups"]} == {digest[:16]}
    assert "compiled" not in made["plain"][0].info
    prefix = compiled_prefix(
        card_name(torch.device("cpu")), torch.__version__, networks_digest(made["recipe"], 4)
    )
    record = json.loads(made["store"].get(f"{prefix}artifact.json"))
    assert record["sha256"] == digest
    assert record["search"] is True
    assert record["attention"] == {"16x16x2": "math"}  # 4 x 4 latents, and as many tokens of text
    assert "said attention: 16x16x2 by math\n" in made["output"]
    assert record["size"] == len(made["store"].get(f"{prefix}{digest[:16]}.bin"))
    assert "said compiling UNet and autoencoder of " in made["output"]
    assert "said compiled in " in made["output"]


def test_every_shape_was_compiled_before_it_was_used(made):
    """Or the first batch would compile again, into no artifact."""
    assert "graphs made 3 while they were used 0" in made["output"]


def test_another_process_loads_it_and_makes_the_same_bytes(made, tmp_path):
    url = f"{made['store'].url}/datasets/shoes"
    options = ("--dataset", url, "--caption-id", "1", "--device", "cpu", "--out", str(tmp_path))
    output = run("-m", "stablerep", "preview", *options)
    assert "loaded the compiled networks in" in output
    assert "does not fit" not in output
    assert "image 0: equal\nimage 1: equal\n" in output
    assert "may differ" not in output


def test_a_worker_loads_it_and_makes_100_of_100_groups_again_each_alone(made, queue, redis_url, tmp_path):
    """Where they were made, two captions shared a batch; here each is a shard, and a batch, of its own."""
    store = made["store"]
    plan_job(store, queue, "hats", made["recipe"], [[each] for each in enumerate(MANY)], seed=5)
    settings = {
        "store_url": store.url,
        "redis_url": redis_url,
        "generator.compile": "on",
        "generator.device": "cpu",
        "generator.lease_seconds": 3,
    }
    command = [sys.executable, "-m", "services.generator"]
    command += [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]
    log = tmp_path / "log"
    with log.open("w", encoding="utf-8") as file:
        worker = subprocess.Popen(command, stdout=file, stderr=subprocess.STDOUT)
        try:
            while not queue.state("hats").final:
                assert worker.poll() is None, log.read_text(encoding="utf-8")
                time.sleep(0.1)
        finally:
            worker.send_signal(signal.SIGTERM)
            assert worker.wait(60) == 0, log.read_text(encoding="utf-8")
    text = log.read_text(encoding="utf-8")
    assert queue.state("hats") is JobState.SUCCEEDED, text
    assert "loaded the compiled networks in" in text
    assert "does not fit" not in text
    assert "lost" not in text, "the lease was kept while they were loaded"
    made_here = list(GroupDataset(f"{store.url}/datasets/hats"))
    again = {group.caption_id: group.encoded for group in made_here}
    same = sum(again[group.caption_id] == group.encoded for group in made["groups"])
    assert (same, len(again), len(made["groups"])) == (100, 100, 100)
    assert {group.info["compiled"] for group in made_here} == {made["artifact"][:16]}


def test_the_first_of_two_workers_counts(made, tmp_path, monkeypatch):
    """What the slower one compiled is dropped for what the faster one has stored meanwhile."""
    store, faster = open_store(tmp_path / "store"), made["store"]
    said, loaded = [], []

    class Raced:
        """The store, in which another worker's artifact appears just before the first record is created."""

        def __getattr__(self, name):
            return getattr(store, name)

        def put(self, key, data, *, if_absent=False):
            if key.endswith("artifact.json"):
                for info in faster.list("compiled/"):
                    store.put(info.key, faster.get(info.key))
            return store.put(key, data, if_absent=if_absent)

    def load(pipeline, recipe, content, search, batch):
        assert search, "as it was compiled"
        loaded.append(hashlib.sha256(content).hexdigest())
        return compiled.Compiled(None, loaded[-1], batch), 0

    monkeypatch.setattr(compiled, "_compile", lambda *_: None)
    monkeypatch.setattr(compiled, "_saved", lambda: b"the slower one's")
    monkeypatch.setattr(compiled, "_load", load)
    pipeline = load_pipeline(made["recipe"], "cpu")
    found = compile_networks(pipeline, made["recipe"], Raced(), said.append)
    assert [found.artifact] == loaded == [made["artifact"]]
    assert "another worker was faster; its compilation counts" in said


FAULTS = [
    TorchDynamoException("Failed to find C compiler. Please specify via CC environment variable."),
    RuntimeError("No valid triton configs. OutOfResources: shared memory"),
    compiler_faults()[-1]("Internal Triton PTX codegen error"),
    subprocess.CalledProcessError(1, ["gcc"]),
    PermissionError(13, "Permission denied", "kernel.so"),
    AssertionError(),
]
"""What torch's compiler raises, and what compiled networks do when their kernels are loaded and first run."""


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: type(fault).__name__)
@pytest.mark.parametrize("as_they_are", [False, True])
def test_what_cannot_be_compiled_is_told_in_a_line(made, tmp_path, monkeypatch, fault, as_they_are):
    """Whether it is the compiled networks that fail, or those that are run before for attention's timing."""

    def fail(self, batch):
        if as_they_are == (self._pass is self._denoiser):
            raise fault

    monkeypatch.setattr(compiled.LatentSampler, "run_once", fail)
    monkeypatch.setattr(compiled, "fastest_ways", lambda shapes: dict.fromkeys(shapes, "math"))
    store, pipeline = open_store(tmp_path / "store"), load_pipeline(made["recipe"], "cpu")
    with pytest.raises(CannotCompile) as caught:
        compile_networks(pipeline, made["recipe"], store)
    told = str(fault) or "AssertionError"
    assert str(caught.value) == f"{made['recipe'].model} cannot be compiled here: {told}"
    assert list(store.list()) == []
    attention = pipeline.denoiser.attention
    assert (attention.ways, attention.seen) == ({}, None), "images without are the same everywhere"


def short_of_memory(monkeypatch, most):
    """Memory suffices for batches of `most` images; the batches that were tried, compiled or not."""
    asked = []

    def run_once(self, batch):
        asked.append(batch)
        if batch > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")

    monkeypatch.setattr(compiled.LatentSampler, "run_once", run_once)
    monkeypatch.setattr(compiled, "_saved", lambda: b"compiled")
    return asked


def test_where_memory_does_not_suffice_smaller_batches_are_compiled(made, tmp_path, monkeypatch):
    asked, said = short_of_memory(monkeypatch, 1), []
    store, recipe = open_store(tmp_path / "store"), made["recipe"]
    pipeline = load_pipeline(recipe, "cpu")
    found = compile_networks(pipeline, recipe, store, said.append)
    assert found.batch == 1
    assert asked == [4, 4, 2, 2, 1, 1], "known before anything is compiled"
    prefix = compiled_prefix(card_name(torch.device("cpu")), torch.__version__, networks_digest(recipe, 1))
    assert {info.key.rpartition("/")[0] + "/" for info in store.list("compiled/")} == {prefix}
    name = recipe.model
    assert [line for line in said if "memory" in line] == [
        f"memory does not suffice for batches of {batch} images of {name}; trying half of it"
        for batch in (4, 2)
    ]
    generator = Generator(recipe, pipeline=pipeline, compiled=found, batch_limit=2)
    assert generator.batch_images == 1


def test_memory_for_a_batch_but_not_for_timing_attention_leaves_torchs_choice(made, tmp_path, monkeypatch):
    """Smaller batches would be slower than the fastest attention gains, and have other last bits."""
    asked, said = short_of_memory(monkeypatch, 4), []

    def time_none(shapes):
        raise RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED")

    monkeypatch.setattr(compiled, "fastest_ways", time_none)
    store, recipe = open_store(tmp_path / "store"), made["recipe"]
    pipeline = load_pipeline(recipe, "cpu")
    assert compile_networks(pipeline, recipe, store, said.append).batch == 4
    assert asked == [4, 4, 4]
    assert (pipeline.denoiser.attention.ways, pipeline.denoiser.attention.seen) == ({}, None)
    assert any("not suffice to time kernels of attention" in line for line in said)


def test_batches_of_the_size_that_is_wanted_are_compiled(made, tmp_path, monkeypatch):
    asked = short_of_memory(monkeypatch, 3)
    store, recipe = open_store(tmp_path / "store"), made["recipe"]
    assert compile_networks(load_pipeline(recipe, "cpu"), recipe, store, batch=3).batch == 3
    assert asked == [3, 3]


def test_a_broken_device_is_no_matter_of_compiling(made, tmp_path, monkeypatch):
    """Its process ends and another one is started, as when images are made without."""

    def fail(self, batch):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(compiled.LatentSampler, "run_once", fail)
    with pytest.raises(torch.AcceleratorError):
        compile_networks(load_pipeline(made["recipe"], "cpu"), made["recipe"], open_store(tmp_path))


def test_memory_for_not_even_one_image_is_told(made, tmp_path, monkeypatch):
    short_of_memory(monkeypatch, 0)
    pipeline = load_pipeline(made["recipe"], "cpu")
    with pytest.raises(CannotCompile, match=r"memory does not suffice: CUDA out of memory\. Tried"):
        compile_networks(pipeline, made["recipe"], open_store(tmp_path / "store"))
    assert pipeline.denoiser.attention.seen is None


def test_memory_that_ends_within_torchs_compiler_is_no_fault_of_the_pipeline(made, tmp_path, monkeypatch):
    fault = BackendCompilerFailed(compiled.compile_networks, torch.OutOfMemoryError("no memory"), None)

    def run_once(self, batch):
        if self._pass is not self._denoiser and batch > 2:
            raise fault

    monkeypatch.setattr(compiled.LatentSampler, "run_once", run_once)
    monkeypatch.setattr(compiled, "_saved", lambda: b"compiled")
    pipeline = load_pipeline(made["recipe"], "cpu")
    assert compile_networks(pipeline, made["recipe"], open_store(tmp_path / "store")).batch == 2


def test_other_batches_pass_the_networks_as_they_are(made, monkeypatch):
    """Compiling for their shape, too, would stop a worker for minutes in the middle of a shard."""
    recipe = made["recipe"]
    pipeline = load_pipeline(recipe, "cpu")
    sizes = []

    def noting(module, **_):
        def graph(latents, *rest):
            sizes.append(len(latents))
            return module(latents, *rest)

        return graph

    monkeypatch.setattr(torch, "compile", noting)
    networks = compiled._compile(pipeline, recipe, search=False, batch=4)
    assert sizes == [4, 4, 4], "with and without guidance, and decoding"
    short = [torch.OutOfMemoryError("no memory")]

    def on_step():
        if short:
            raise short.pop()

    generator = Generator(
        recipe, seed=5, pipeline=pipeline, compiled=compiled.Compiled(networks, "0" * 64, batch=4)
    )
    del sizes[:]
    halved = list(generator.generate(CAPTIONS, on_step=on_step))
    assert sizes == [4], "the one step before memory was short"
    assert [group.info.get("batch_images") for group in halved] == [2, 2, 2]
    assert not any("compiled" in group.info for group in halved)
    whole = list(generator.generate(CAPTIONS))
    assert set(sizes[1:]) == {4}
    assert [group.info.get("compiled") for group in whole] == ["0" * 16] * 3
    assert [group.encoded for group in whole] == [group.encoded for group in made["plain"]]


def test_what_a_gpu_lacks_is_told_before_anything_is_timed(tmp_path, monkeypatch):
    monkeypatch.setattr(compiled, "missing_to_build", lambda: "there is no C compiler (gcc or clang)")
    monkeypatch.setattr(compiled, "can_compile", lambda *_: True)
    pipeline = SimpleNamespace(device=torch.device("cuda"))
    with pytest.raises(CannotCompile, match=r"pipeline cannot be compiled here: there is no C compiler"):
        compile_networks(pipeline, recipe_of(tmp_path / "pipeline"), open_store(tmp_path / "store"))


@pytest.mark.parametrize(("wanted", "search"), [("auto", False), ("on", False), ("search", True)])
def test_a_worker_searches_if_it_was_told_to(wanted, search, tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(gpu, "compile_networks", lambda *_, search, batch: asked.append(search))
    monkeypatch.setattr(torch, "compile", lambda module, *, options, **_: asked.append(options))
    worker = SimpleNamespace(settings=GeneratorSettings(compile=wanted), store=None, heartbeat=Heartbeat(600))
    gpu.Gpu(worker, None, None)._compile(SimpleNamespace(device=torch.device("cuda")), recipe_of(tmp_path))
    compiled._as_graph(None, asked[0])
    assert asked == [search, compiled.SEARCH if search else None]


@pytest.mark.parametrize("wanted", ["auto", "on", "search"])
def test_a_worker_goes_on_without_unless_it_was_told_to(wanted, tmp_path, monkeypatch, caplog):
    def fail(*_, **_named):
        raise CannotCompile("no C compiler")

    monkeypatch.setattr(gpu, "compile_networks", fail)
    settings = GeneratorSettings(compile=wanted)
    worker = SimpleNamespace(settings=settings, store=None, heartbeat=Heartbeat(600))
    stage = gpu.Gpu(worker, None, None)
    pipeline = SimpleNamespace(device=torch.device("cuda"))
    recipe = recipe_of(tmp_path)
    if wanted != "auto":
        with pytest.raises(CannotCompile):
            stage._compile(pipeline, recipe)
        return
    with caplog.at_level(logging.WARNING):
        assert stage._compile(pipeline, recipe) is None
        assert stage._compile(pipeline, recipe) is None
    assert len(caplog.records) == 1, "tried once"


def test_an_artifact_that_was_changed_is_not_run(made, tmp_path):
    store = open_store(tmp_path / "store")
    for info in made["store"].list("compiled/"):
        data = made["store"].get(info.key)
        store.put(info.key, data[:-1] + b"?" if info.key.endswith(".bin") else data)
    pipeline = load_pipeline(made["recipe"], "cpu")
    with pytest.raises(TornObject, match="is not run"):
        compile_networks(pipeline, made["recipe"], store)


def test_what_decides_the_graphs_decides_the_artifact(made):
    recipe = made["recipe"]
    same = [{"steps": 9}, {"sampler": "dpm++"}, {"guidance_scale": 7.5}, {"jpeg_quality": 80}]
    other = [{"image_size": 64}, {"guidance_until": 1.0}, {"dtype": "float16"}]
    for changes in same:
        assert networks_digest(recipe.model_copy(update=changes), 4) == networks_digest(recipe, 4)
    digests = {networks_digest(recipe.model_copy(update=changes), 4) for changes in other}
    digests.add(networks_digest(recipe, 2))
    assert len(digests - {networks_digest(recipe, 4)}) == len(other) + 1


def test_other_pipelines_are_left_as_they_are(tmp_path):
    recipe = recipe_of(
        make_random_consistency_pipeline(tmp_path / "lcm"), sampler="pipeline", guidance_until=1.0
    )
    pipeline = load_pipeline(recipe, "cpu")
    assert not can_compile(pipeline, recipe)
    assert compile_networks(pipeline, recipe, open_store(tmp_path / "store")) is None


def test_a_group_of_a_smaller_batch_is_remade_in_one(made):
    store, recipe = made["store"], made["recipe"]
    generator = Generator(recipe, seed=5, pipeline=load_pipeline(recipe, "cpu"), batch_limit=2)
    write_dataset(store, read_dataset(store, "shoes").model_copy(update={"name": "small"}))
    commit_shard(store, "small", 0, build_tar(list(generator.generate(CAPTIONS))))
    found = remake_group(store, "small", 1, device="cpu")
    assert found.made.info["batch_images"] == 2
    assert found.equal == [True, True]
    assert "a smaller batch, of 2 images" in found.exception


def test_remade_elsewhere_says_why_bytes_may_differ(made, monkeypatch, tmp_path):
    monkeypatch.setattr("stablerep.generation.remake.compile_networks", lambda *_, **_named: None)
    found = remake_group(made["store"], "shoes", 0, device="cpu")
    assert "another kind of card" in found.exception
