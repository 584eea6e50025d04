"""Options of the loop: activations computed again, compilation, float16, averages, what checkpoints keep."""

import hashlib
import json
import threading
from functools import partial, partialmethod

import pytest
import torch
from safetensors.torch import load, save
from torch._dynamo.utils import counters

from stablerep.errors import InvalidInput, TornObject
from stablerep.models.load import load_encoder
from stablerep.shards.layout import run_key
from stablerep.storage import open_store
from stablerep.training import TrainConfig, checkpoint, load_train_config, reporter
from stablerep.training.checkpoint import checkpoint_steps, read_checkpoint
from stablerep.training.distributed import Ranks
from stablerep.training.learner import build_learner
from stablerep.training.loop import train
from stablerep.training.scaling import LossScale
from tests.integration.training.test_training import configuration, exported, metrics
from tests.training import write_stripes
from tests.unit.methods.test_methods import VIT

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def url(tmp_path) -> str:
    url = (tmp_path / "store").as_uri()
    write_stripes(url)
    return url


def trained(url: str, run: str, **changed: object) -> TrainConfig:
    config = configuration(url, run, **{"steps": 8, "log_every": 1, **changed})
    assert train(config, ALONE, threading.Event()) is not None
    return config


def losses(config: TrainConfig) -> list[float]:
    return [line["loss"] for line in metrics(config)]


def stopped_and_resumed(url: str, run: str, after: int, **changed: object) -> TrainConfig:
    """Stopped by a callback after so many steps, then gone on with."""
    config = configuration(url, run, **{"steps": 8, "log_every": 1, **changed})
    stop = threading.Event()

    class StopsAfter(reporter.TrainingCallback):
        def on_step(self, step: int, views: int, waited: float) -> None:
            if step == after:
                stop.set()

    assert train(config, ALONE, stop, StopsAfter()) is None
    assert train(config, ALONE, threading.Event()) is not None
    return config


@pytest.mark.parametrize("method", ["stablerep", "mae"])
def test_activations_computed_again_change_nothing(url, method):
    more = (
        {"images_per_caption": 3}
        if method == "stablerep"
        else {"decoder": {"layers": 1, "width": 24, "heads": 2}}
    )
    options = {"encoder": VIT, "method": {"name": method, **more}}
    plain = trained(url, "plain", **options)
    again = trained(url, "again", recompute=True, **options)
    assert losses(again) == losses(plain)
    assert all(torch.equal(value, exported(again)[name]) for name, value in exported(plain).items())


def test_batches_from_a_process_of_their_own_change_nothing(url):
    thread = trained(url, "thread", decoded_bytes=0)
    process = stopped_and_resumed(url, "process", 3, decoded_bytes=0, load_in="process")
    assert losses(process) == losses(thread)
    weights = exported(thread)
    assert all(torch.equal(weights[name], value) for name, value in exported(process).items())


def test_an_encoder_with_batch_norm_is_refused(url):
    with pytest.raises(InvalidInput, match="wants a ViT"):
        train(configuration(url, "bn", recompute=True), ALONE, threading.Event())


@pytest.fixture
def traced(monkeypatch):
    """Traced as for any backend, and run as it is: making machine code of it takes a minute here."""
    monkeypatch.setattr(
        torch.nn.Module, "compile", partialmethod(torch.nn.Module.compile, backend="aot_eager")
    )
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="aot_eager"))
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.parametrize(
    ("more", "graphs"),
    [
        ({}, 1),
        ({"recompute": True}, 1),
        ({"encode_parts": 2}, 2),
        ({"encode_parts": 2, "recompute": True}, 2),
    ],
    ids=str,
)
def test_a_compiled_encoder_learns_the_same(url, traced, more, graphs):
    """One graph serves all blocks; parts are encoded without gradients first, by another."""
    plain = trained(url, "plain", steps=2, encoder=VIT)
    counters.clear()
    compiled = trained(url, "compiled", steps=2, encoder=VIT, compile=True, **more)
    assert counters["stats"]["unique_graphs"] == graphs
    assert losses(compiled) == pytest.approx(losses(plain), abs=1e-4)
    assert exported(compiled).keys() == exported(plain).keys()


def test_an_online_probe_compiles_nothing(url, traced):
    """Its batches have another size than the steps'; what is compiled for these stays as it is."""
    counters.clear()
    probe = {"every": 2, "data": "digits", "photographs": 60}
    trained(url, "probed", steps=4, encoder=VIT, compile=True, online_probe=probe)
    assert counters["stats"]["unique_graphs"] == 1


def test_float16_learns_and_goes_on_with_its_scale(url):
    config = trained(url, "half", precision="float16")
    full = trained(url, "full")
    assert losses(config) != losses(full)
    assert losses(config)[:2] == pytest.approx(losses(full)[:2], abs=0.02)  # then rounding grows
    longer = losses(trained(url, "longer", precision="float16", steps=60))
    assert longer[-1] < longer[0] - 0.5
    resumed = stopped_and_resumed(url, "resumed", 5, precision="float16")
    assert losses(resumed) == losses(config)
    scales = [
        read_checkpoint(open_store(url), run, 8).tensors["run.loss_scale"] for run in ("half", "resumed")
    ]
    assert torch.equal(*scales)
    assert 1 <= scales[0][0] <= 65536


def test_a_step_whose_gradients_overflow_is_left_out():
    scaling = LossScale("float16", torch.device("cpu"))
    weight = torch.nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    for gradient, moved in ((torch.inf, False), (0.5, True)):
        optimizer.zero_grad()
        scaling.scale((weight * gradient).sum()).backward()
        scaling.unscale(optimizer)
        before = weight.detach().clone()
        scaling.step(optimizer)
        assert (not torch.equal(before, weight)) is moved
        if moved:
            assert torch.allclose(before - weight, torch.tensor(gradient))
    assert scaling.state()["run.loss_scale"].tolist() == [32768.0, 1.0]
    assert scaling.finite(float("inf")) is None
    assert LossScale("float32", torch.device("cpu")).finite(float("inf")) == float("inf")


def test_the_average_of_the_weights_is_what_is_exported(url):
    config = configuration(url, "averaged", steps=3, average=0.9, log_every=1)
    initial = {
        name: value.clone()
        for name, value in build_learner(config, ALONE.device, 1).encoder.state_dict().items()
    }
    train(config, ALONE, threading.Event())
    follows = [trained_to(url, steps) for steps in (1, 2, 3)]
    expected = initial
    for step, weights in enumerate(follows, start=1):
        momentum = min(0.9, (1 + step) / (10 + step))
        expected = {
            name: weights[name] if is_buffer(name) else momentum * value + (1 - momentum) * weights[name]
            for name, value in expected.items()
        }
    found = exported(config)
    for name, value in expected.items():
        assert torch.allclose(found[name], value, atol=1e-6), name
    resumed = stopped_and_resumed(url, "resumed", 1, steps=3, average=0.9)
    assert all(torch.equal(value, found[name]) for name, value in exported(resumed).items())


def trained_to(url: str, steps: int) -> dict[str, torch.Tensor]:
    """The encoder of the same run after so many of its three steps."""
    config = configuration(url, f"to-{steps}", steps=3, log_every=1, checkpoint_every=1, keep_checkpoints=9)
    train(config, ALONE, threading.Event())
    tensors = read_checkpoint(open_store(url), f"to-{steps}", steps).tensors
    part = "model.encoder."
    return {name.removeprefix(part): value for name, value in tensors.items() if name.startswith(part)}


def is_buffer(name: str) -> bool:
    return "running_" in name or "num_batches" in name


def test_as_many_checkpoints_are_kept_as_asked_for(url):
    trained(url, "many", checkpoint_every=2, keep_checkpoints=3)
    assert checkpoint_steps(open_store(url), "many") == [4, 6, 8]
    left = {entry.key.split("/")[3] for entry in open_store(url).list("runs/many/checkpoints/")}
    assert left == {"00000004", "00000006", "00000008"}


def test_a_large_state_has_parts_and_a_damaged_one_is_named(url, monkeypatch):
    monkeypatch.setattr(checkpoint, "_PART_BYTES", 20_000)
    whole = trained(url, "whole")
    parted = stopped_and_resumed(url, "parted", 4)
    assert losses(parted) == losses(whole)
    store = open_store(url)
    parts = [entry.key for entry in store.list("runs/parted/checkpoints/00000008/") if "state-" in entry.key]
    assert len(parts) > 3
    store.put(parts[1], store.get(parts[1])[:-1])
    with pytest.raises(TornObject, match=r"state-001\.safetensors is damaged"):
        read_checkpoint(store, "parted", 8)


def test_a_checkpoint_of_before_there_were_parts_is_read(url):
    trained(url, "old")
    store = open_store(url)
    key = run_key("old", "checkpoints/00000008/")
    data = save(
        {name: value.clone() for name, value in load(store.get(f"{key}state-000.safetensors")).items()}
    )
    info = json.loads(store.get(f"{key}checkpoint.json"))
    info |= {"sha256": hashlib.sha256(data).hexdigest()}
    del info["parts"]
    store.put(f"{key}state.safetensors", data)
    store.delete(f"{key}state-000.safetensors")
    store.put(f"{key}checkpoint.json", json.dumps(info).encode())
    assert read_checkpoint(store, "old", 8).tensors.keys() == load(data).keys()


def test_the_encoder_with_the_best_probe_is_kept(url):
    probe = {"every": 2, "data": "digits", "photographs": 60, "keep_best": True}
    config = trained(url, "best", online_probe=probe)
    measured = {line["step"]: line["probe_linear"] for line in metrics(config) if "probe_linear" in line}
    store = open_store(url)
    best = json.loads(store.get(run_key("best", "best/best.json")))
    assert best["probe_linear"] == max(measured.values())
    assert measured[best["step"]] == best["probe_linear"]
    encoder = load_encoder(f"{url}/runs/best/best")
    assert encoder.model.num_features == 16


class Recording:
    """A tracker that keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[tuple[object, ...]] = []

    def start(self, run, config) -> None:
        self.told.append(("start", run, config["steps"]))

    def log(self, step, metrics) -> None:
        self.told.append((step, *sorted(metrics)))

    def finish(self) -> None:
        self.told.append(("finish",))


def test_a_tracker_is_told_of_every_record(url, monkeypatch):
    tracker = Recording()
    monkeypatch.setattr(reporter, "make_tracker", lambda config: tracker)
    trained(url, "tracked", online_probe={"every": 4, "data": "digits", "photographs": 60})
    assert tracker.told[0] == ("start", "tracked", 8)
    assert tracker.told[-1] == ("finish",)
    steps = [told[0] for told in tracker.told[1:-1]]
    assert steps == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]
    assert all("loss" in told for told in tracker.told[1:4])
    assert tracker.told[5] == (4, "probe_knn", "probe_linear")


def test_a_tracker_that_is_not_installed_is_named(url, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "wandb", None)
    with pytest.raises(InvalidInput, match="wandb is not installed: pip install wandb"):
        train(configuration(url, "untracked", tracker="wandb"), ALONE, threading.Event())


def test_views_made_by_threads_train_the_same_run(url):
    """Rounded to bytes, so not bit for bit. How long steps waited for data is told, and for what."""
    options = {"encoder": VIT, "steps": 4, "decoded_bytes": 0, "optimizer.lr": 1e-4}
    device, threads = (trained(url, on, augment_on=on, **options) for on in ("device", "cpu"))
    assert losses(threads) == pytest.approx(losses(device), abs=0.1)
    assert losses(threads) != losses(device)
    for config, causes in ((device, {"read", "decode"}), (threads, {"read", "decode", "augment"})):
        for line in metrics(config):
            assert 0 <= line["data_wait"] <= 1
            assert {f"{cause}_seconds" for cause in causes} <= line.keys()
            assert line["decode_seconds"] > 0


def test_where_views_are_made():
    where = {"run": "file:///x/runs/x", "datasets": ["file:///x/datasets/x"]}
    small, large = (load_train_config("demo", {**where, "encoder.image_size": size}) for size in (28, 224))
    assert [c.augments_on_cpu(on) for c in (small, large) for on in ("cpu", "cuda")] == [
        False,
        False,
        True,
        False,
    ]


@pytest.mark.parametrize(("size", "wanted"), [(16, "float32"), (28, "bfloat16")])
def test_convolutions_of_single_pixels_are_in_float32_on_a_cpu(url, monkeypatch, size, wanted):
    """Weights of their gradient in bfloat16 are never written: see `convolves_single_pixels`."""
    monkeypatch.setattr("stablerep.training.learner._cpu_multiplies_bfloat16", lambda: True)
    config = configuration(
        url,
        "pixels",
        encoder={"name": "resnet18", "kwargs": {"layers": [1, 1, 1, 1]}, "image_size": size},
        precision="auto",
    )
    assert build_learner(config, torch.device("cpu"), 1).precision == wanted
    assert build_learner(
        config.model_copy(update={"precision": "bfloat16"}), torch.device("cpu"), 1
    ).precision == ("bfloat16")
