"""What may go wrong in a run: damaged images, a collapse, two processes on a run, one too short."""

import json
import math
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import torch

from services.trainer.exits import FAILED, status_of
from stablerep.errors import AlreadyExists, Diverged, InvalidInput, StableRepError, TornObject
from stablerep.local.children import COMMAND_VARIABLE
from stablerep.shards import Group, build_tar, commit_shard
from stablerep.shards.layout import run_key
from stablerep.storage import open_store
from stablerep.training import starts
from stablerep.training.distributed import Ranks
from stablerep.training.loop import train
from stablerep.training.step import Backward
from tests.integration.training.test_training import (
    configuration,
    exported,
    metrics,
    start,
    wait_for_checkpoint,
)
from tests.training import CAPTIONS, IMAGES, write_stripes
from tests.unit.methods.test_methods import VIT

ALONE = Ranks(0, 1, torch.device("cpu"))


@pytest.fixture
def local_url(tmp_path) -> str:
    url = (tmp_path / "store").as_uri()
    write_stripes(url)
    return url


def start_of(url: str, run: str, number: int) -> dict[str, object]:
    return json.loads(open_store(url).get(run_key(run, f"starts/{number:06d}.json")))


def with_damage(url: str, images: int) -> str:
    """A dataset of two shards, some of whose images are cut short."""
    source, groups, left = open_store(url), [], images
    from stablerep.data import GroupDataset

    for group in GroupDataset(f"{url}/datasets/stripes"):
        cut = min(left, 1)
        left -= cut
        encoded = (group.encoded[0][: len(group.encoded[0]) // 2 if cut else None], *group.encoded[1:])
        groups.append(Group(group.caption_id, group.caption, encoded))
    commit_shard(source, "damaged", 0, build_tar(groups))
    return f"{url}/datasets/damaged"


@pytest.mark.parametrize("decoded_bytes", [0, 10**9])
def test_a_damaged_image_is_passed_over_and_counted(local_url, decoded_bytes):
    config = configuration(
        local_url,
        "scratched",
        datasets=[with_damage(local_url, 1)],
        steps=12,
        damaged_share=0.05,
        decoded_bytes=decoded_bytes,
    )
    result = train(config, ALONE, threading.Event())
    assert result is not None
    assert result["images_damaged"] == 1
    assert metrics(config)[-1]["images_damaged"] == 1


def test_more_damage_than_allowed_ends_the_run_and_names_the_images(local_url):
    config = configuration(local_url, "torn", datasets=[with_damage(local_url, 6)], damaged_share=0.05)
    with pytest.raises(TornObject, match=r"6 of 7\d images are damaged.*image 0 of caption 0 in shard 0 of"):
        train(config, ALONE, threading.Event())


@pytest.mark.parametrize(
    ("encoder", "rate", "steps", "word"),
    [(VIT, 1.0, 30, "collapsed"), (None, 90.0, 16, "vanished"), (VIT, 0.001, 16, "")],
)
def test_a_run_that_learns_nothing_is_warned_of(local_url, capsys, encoder, rate, steps, word):
    config = configuration(
        local_url,
        "hot",
        optimizer={"lr": rate, "warmup_steps": 0},
        steps=steps,
        log_every=1,
        **({"encoder": encoder} if encoder else {}),
    )
    train(config, ALONE, threading.Event())
    printed = capsys.readouterr().out
    assert word in printed
    assert ("optimizer.lr" in printed) == bool(word)


def test_the_floor_is_that_of_the_batchs_own_labels(tmp_path):
    """Two captions of every text: six positives a row less itself, where the captions alone would say two."""
    from stablerep.data import GroupDataset

    url = (tmp_path / "store").as_uri()
    write_stripes(url)
    groups = [
        Group(group.caption_id, f"text {number // 2}", group.encoded)
        for number, group in enumerate(GroupDataset(f"{url}/datasets/stripes"))
    ]
    commit_shard(open_store(url), "pairs", 0, build_tar(groups))
    whole = {"views_per_batch": CAPTIONS * IMAGES, "steps": 2, "log_every": 1}
    config = configuration(url, "pairs", datasets=[f"{url}/datasets/pairs"], **whole)
    train(config, ALONE, threading.Event())
    for line in metrics(config):
        assert line["loss"] - line["loss_above_floor"] == pytest.approx(math.log(2 * IMAGES - 1))


def test_a_divergence_leaves_the_batch_behind(local_url):
    config = configuration(
        local_url, "diverging", optimizer={"lr": 1e36, "warmup_steps": 30}, checkpoint_every=1
    )
    with pytest.raises(Diverged, match=r"diverged/\d{8}\.json"):
        train(config, ALONE, threading.Event())
    store = open_store(local_url)
    (record,) = [json.loads(store.get(entry.key)) for entry in store.list("runs/diverging/diverged/")]
    assert record["last_checkpoint"] == record["step"] - 1
    assert len(record["captions"]) == 8
    assert "in shard" in record["captions"][0]


def test_a_second_process_on_a_run_is_refused(local_url, monkeypatch):
    monkeypatch.setattr(starts, "RENEW_SECONDS", 0.3)  # of the process that the test is
    config = configuration(local_url, "mine", steps=100_000, checkpoint_every=10)
    owner = start(config)
    try:
        wait_for_checkpoint(config, owner, beyond=0)
        began = time.monotonic()
        with pytest.raises(AlreadyExists, match=f"process {owner.pid} on"):
            train(config, ALONE, threading.Event())
        assert time.monotonic() - began < starts.LAPSE_SECONDS
        assert owner.poll() is None
    finally:
        owner.send_signal(signal.SIGTERM)
        owner.communicate(timeout=60)
    assert start_of(local_url, "mine", 1)["ended"]


def test_a_killed_owner_is_followed_at_once(local_url):
    config = configuration(local_url, "mine", steps=100_000, checkpoint_every=10)
    owner = start(config)
    wait_for_checkpoint(config, owner, beyond=0)
    owner.kill()
    owner.communicate()
    stop = threading.Event()
    stop.set()
    began = time.monotonic()
    assert train(config, ALONE, stop) is None
    assert time.monotonic() - began < starts.LAPSE_SECONDS / 2
    assert not start_of(local_url, "mine", 1)["ended"]
    assert start_of(local_url, "mine", 2)["ended"]


def test_an_owner_of_another_machine_is_waited_for_until_its_lease_lapses(local_url, monkeypatch):
    monkeypatch.setattr(starts, "LAPSE_SECONDS", 1.0)
    config = configuration(local_url, "mine", steps=3)
    away = starts.Start(
        time=starts.now(), host="away", boot="other", process=os.getpid(), renew_time=starts.now()
    )
    store = open_store(local_url)
    store.put(run_key("mine", "starts/000001.json"), away.model_dump_json().encode())
    began = time.monotonic()
    assert train(config, ALONE, threading.Event()) is not None
    assert time.monotonic() - began > 1.0
    assert start_of(local_url, "mine", 2)["host"] != "away"


def test_a_process_whose_run_was_taken_over_ends(local_url, monkeypatch):
    monkeypatch.setattr(starts, "RENEW_SECONDS", 0.05)
    config = configuration(local_url, "mine", steps=100_000)
    store = open_store(local_url)

    def take_over() -> None:
        while not store.exists(run_key("mine", "checkpoints/00000020/checkpoint.json")):
            time.sleep(0.05)
        other = starts.Start(time=starts.now(), host="x", boot="", process=1, renew_time=starts.now())
        store.put(run_key("mine", "starts/000002.json"), other.model_dump_json().encode())

    thread = threading.Thread(target=take_over)
    thread.start()
    with pytest.raises(AlreadyExists, match="another process"):
        train(config, ALONE, threading.Event())
    thread.join()
    assert start_of(local_url, "mine", 2)["host"] == "x"


def test_a_start_says_who_where_and_with_what(local_url, monkeypatch):
    monkeypatch.setenv(COMMAND_VARIABLE, "stablerep train --run r")
    train(configuration(local_url, "mine", steps=2), ALONE, threading.Event())
    found = start_of(local_url, "mine", 1)
    assert found["process"] == os.getpid()
    assert found["command"] == "stablerep train --run r"
    assert found["ranks"] == 1
    assert {"python", "torch", "timm"} <= set(found["versions"])


def test_an_online_probe_is_logged_and_changes_nothing(local_url):
    plain = configuration(local_url, "plain", steps=10, log_every=5)
    probed = configuration(
        local_url,
        "probed",
        steps=10,
        log_every=5,
        online_probe={"every": 4, "data": "digits", "photographs": 200},
    )
    for config in (plain, probed):
        train(config, ALONE, threading.Event())
    found = {line["step"]: line for line in metrics(probed)}
    assert sorted(found) == [4, 5, 8, 10]
    for step in (4, 8, 10):
        assert 0.15 < found[step]["probe_knn"] <= 1
        assert 0.15 < found[step]["probe_linear"] <= 1
    assert "probe_knn" not in found[5]
    for tensor, value in exported(plain).items():
        assert torch.equal(exported(probed)[tensor], value), tensor
    with pytest.raises(InvalidInput, match=r"online_probe\.data.*folder"):
        train(
            configuration(local_url, "bad", online_probe={"every": 1, "data": "nothing"}),
            ALONE,
            threading.Event(),
        )


def test_a_finished_run_can_be_lengthened_but_not_shortened(local_url):
    short = configuration(local_url, "mine", steps=20)
    first = train(short, ALONE, threading.Event())
    longer = configuration(local_url, "mine", steps=30)
    second = train(longer, ALONE, threading.Event())
    assert first is not None
    assert second is not None
    assert (first["steps"], second["steps"]) == (20, 30)
    assert [line["step"] for line in metrics(longer)][-3:] == [20, 25, 30]
    with pytest.raises(AlreadyExists, match="steps"):
        train(short, ALONE, threading.Event())


def test_a_batch_of_one_caption_is_refused_before_anything_starts(local_url):
    with pytest.raises(InvalidInput, match="views_per_batch"):
        configuration(local_url, "one", views_per_batch=3)


def test_a_run_begins_with_the_weights_of_another(local_url):
    first = configuration(local_url, "first", steps=10)
    train(first, ALONE, threading.Event())
    stop = threading.Event()
    stop.set()
    for init in (f"{local_url}/runs/first", f"{local_url}/runs/first/export"):
        name = f"from-{len(init)}"
        second = configuration(local_url, name, init=init, optimizer={"lr": 1e-12}, steps=3)
        train(second, ALONE, threading.Event())
        for tensor, value in exported(first).items():
            if "running" not in tensor and "num_batches" not in tensor:
                torch.testing.assert_close(exported(second)[tensor], value, rtol=0, atol=1e-9)
    with pytest.raises(InvalidInput, match="is no vit_tiny_patch16_224"):
        train(configuration(local_url, "other", init=init, encoder=VIT), ALONE, stop)


def test_an_unexpected_error_is_one_line_that_names_a_file_with_the_traceback(local_url):
    command = ["train", "--dataset", f"{local_url}/datasets/stripes", "--run", f"{local_url}/runs/odd"]
    command += ["--set", "views_per_batch=24", "--set", "method.images_per_caption=3"]
    command += ["--set", "encoder.kwargs={in_chans: 4}"]  # views have three channels
    done = subprocess.run([sys.executable, "-m", "stablerep", *command], capture_output=True, text=True)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error:")]
    assert len(line) < 400
    assert "RuntimeError" in line
    named = Path(done.stderr.rpartition("traceback is in ")[2].strip())
    assert "Traceback" in named.read_text()
    assert "conv" in named.read_text()
    assert len(done.stderr) < 1000
    named.unlink()


def test_stopping_prints_the_command_that_was_typed(local_url, tmp_path):
    folder = Path(local_url.removeprefix("file://"))
    command = ["train", "--dataset", f"{folder}/datasets/stripes", "--run", f"{folder}/runs/typed"]
    command += ["--set", "steps=100000", "--set", "views_per_batch=24", "--set", "checkpoint_every=20"]
    command += ["--set", "method.images_per_caption=3", "--set", "encoder.image_size=16"]
    process = subprocess.Popen(
        [sys.executable, "-m", "stablerep", *command],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    store, deadline = open_store(local_url), time.monotonic() + 120
    while not list(store.list("runs/typed/checkpoints/")):
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 75, output
    assert f"Go on with: stablerep {' '.join(command)}" in output


def test_another_fault_of_a_gpu_is_raised_as_it_is(local_url, monkeypatch):
    def fail(self, batch):
        raise RuntimeError("CUDA error: device-side assert triggered")

    monkeypatch.setattr(Backward, "__call__", fail)
    with pytest.raises(RuntimeError, match="device-side assert"):
        train(configuration(local_url, "faulty", steps=2), ALONE, threading.Event())


def test_a_gpu_out_of_memory_is_told_with_what_takes_less(local_url, monkeypatch):
    left, batches, enough = [3], [], Backward.__call__

    def short(self, batch):
        batches.append(batch)
        if len(batches) > left[0]:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1 GiB.")
        return enough(self, batch)

    monkeypatch.setattr(Backward, "__call__", short)
    config = configuration(local_url, "large", steps=6, checkpoint_every=2)
    with pytest.raises(StableRepError) as caught:
        train(config, ALONE, threading.Event())
    text = str(caught.value)
    assert text.startswith("CUDA out of memory. Tried to allocate 2.00 GiB. A larger encode_parts, ")
    assert "views_per_batch" in text
    assert status_of(caught.value) == FAILED, "tried again: another process may have had the memory"
    batches.clear()
    left[0] = 100
    assert train(config, ALONE, threading.Event())["steps"] == 6
    assert len(batches) == 4, "from the checkpoint of step 2"
