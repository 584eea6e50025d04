"""A run that follows a dataset while it is generated: the batches of one that began when it was whole."""

import json
import signal
import threading
import time
from pathlib import Path

import pytest
import torch

from stablerep.data import GroupDataset
from stablerep.errors import AlreadyExists, NotFound
from stablerep.shards import build_tar, commit_shard
from stablerep.shards.captions_file import write_captions
from stablerep.shards.group import skipped_group
from stablerep.shards.layout import create_key, dead_key, event_key, planned_key, run_key, shard_key
from stablerep.storage import open_store
from stablerep.training import TrainConfig, starts
from stablerep.training.checkpoint import checkpoint_steps
from stablerep.training.distributed import Ranks
from stablerep.training.loop import train
from tests.integration.training.test_training import (
    configuration,
    exported,
    metrics,
    start,
    wait_for_checkpoint,
)
from tests.training import CAPTIONS, PER_SHARD, describe, write_stripes

ALONE = Ranks(0, 1, torch.device("cpu"))
SHARDS = CAPTIONS // PER_SHARD


class Growing:
    """A store with the dataset's plan, to which its shards are copied from a whole one."""

    def __init__(self, folder: Path) -> None:
        self.whole_url, self.url = ((folder / name).as_uri() for name in ("whole", "growing"))
        write_stripes(self.whole_url)
        describe(self.whole_url)
        self._whole, self.store = open_store(self.whole_url), open_store(self.url)
        describe(self.url)
        self.store.put(create_key("stripes"), b"{}")
        groups = list(GroupDataset(f"{self.whole_url}/datasets/stripes"))
        for shard in range(SHARDS):
            own = groups[shard * PER_SHARD : (shard + 1) * PER_SHARD]
            write_captions(self.store, "stripes", shard, [(group.caption_id, group.caption) for group in own])
        self.groups = groups

    def plan(self) -> None:
        self.store.put(planned_key("stripes"), json.dumps({"shards": SHARDS, "captions": CAPTIONS}).encode())

    def add(self, shard: int) -> None:
        commit_shard(self.store, "stripes", shard, self._whole.get(shard_key("stripes", shard)))

    def add_all(self, seconds_between: float) -> threading.Thread:
        """Adds the plan and the shards, the last one first, while something else happens."""

        def work() -> None:
            time.sleep(seconds_between)
            self.plan()
            for shard in reversed(range(SHARDS)):
                time.sleep(seconds_between)
                self.add(shard)

        thread = threading.Thread(target=work)
        thread.start()
        return thread


@pytest.fixture
def growing(tmp_path, monkeypatch) -> Growing:
    monkeypatch.setattr("stablerep.data.corpus.growing.POLL_SECONDS", 0.05)
    monkeypatch.setattr("stablerep.training.following.POLL_SECONDS", 0.05)
    return Growing(tmp_path)


def settings(url: str, run: str, **changed: object) -> TrainConfig:
    return configuration(url, run, **{"steps": 12, "log_every": 1, "checkpoint_every": 100, **changed})


def losses(config: TrainConfig) -> list[float]:
    return [line["loss"] for line in metrics(config)]


def test_it_sees_the_batches_of_a_run_on_the_whole_dataset(growing, capsys):
    few = {"views_per_batch": 6, "steps": 30}
    adding = growing.add_all(0.4)
    followed = settings(growing.url, "followed", follow=True, **few)
    result = train(followed, ALONE, threading.Event())
    adding.join()
    assert result is not None
    assert result["shards_passed_over"] == 0
    printed = capsys.readouterr().out
    assert "waits for the plan of its job" in printed
    assert "waits for shard" in printed

    after = settings(growing.url, "after", follow=True, **few)
    train(after, ALONE, threading.Event())
    assert losses(followed) == losses(after)
    assert all(torch.equal(value, exported(followed)[name]) for name, value in exported(after).items())


@pytest.mark.parametrize("method", [{"name": "stablerep", "images_per_caption": 3}, {"name": "simclr"}])
def test_a_shard_that_is_given_up_is_passed_over_and_recorded(growing, method, capsys):
    growing.plan()
    growing.add(0)
    growing.store.put(dead_key("stripes", 1), json.dumps({"shard": 1, "error": "no memory"}).encode())
    config = settings(growing.url, "first", follow=True, method=method)
    adding = threading.Timer(1.0, growing.add, [2])
    adding.start()
    result = train(config, ALONE, threading.Event())
    adding.join()
    assert result is not None
    assert result["shards_passed_over"] == 1
    record = json.loads(growing.store.get(run_key("first", "passed_over/0-000001.json")))
    assert (record["shard"], record["error"]) == (1, "no memory")
    assert "passes over shard 1" in capsys.readouterr().out

    later = settings(growing.url, "later", follow=True, method=method)
    train(later, ALONE, threading.Event())
    assert losses(later) == losses(config)


def test_what_a_run_passed_over_stays_passed_over_when_it_is_resumed(growing):
    growing.plan()
    growing.add(0)
    growing.add(2)
    growing.store.put(dead_key("stripes", 1), b'{"shard": 1, "error": "no memory"}')
    left_alone = settings(growing.url, "alone", follow=True)
    train(left_alone, ALONE, threading.Event())

    stopped = settings(growing.url, "stopped", follow=True, checkpoint_every=4)
    train(stopped.model_copy(update={"steps": 4}), ALONE, threading.Event())
    growing.store.delete(dead_key("stripes", 1))
    growing.add(1)  # tried again, and made after all
    train(stopped, ALONE, threading.Event())
    # Lengthened, its rates differ; the images it has seen do not.
    results = [json.loads(growing.store.get(run_key(run, "result.json"))) for run in ("alone", "stopped")]
    assert results[0]["images_distinct"] == results[1]["images_distinct"]
    assert {result["shards_passed_over"] for result in results} == {1}


def test_captions_that_were_skipped_give_their_places_to_the_next(growing):
    growing.plan()
    for shard in range(SHARDS):
        own = growing.groups[shard * PER_SHARD : (shard + 1) * PER_SHARD]
        made = [
            skipped_group(g.caption_id, g.caption, "flagged") if g.caption_id % 3 == 0 else g for g in own
        ]
        commit_shard(growing.store, "stripes", shard, build_tar(made))
    config = settings(growing.url, "skipping", follow=True)
    result = train(config, ALONE, threading.Event())
    assert result is not None
    assert result["images_distinct"] == CAPTIONS // 3 * 2 * 3
    assert result["images_damaged"] == 0


def test_stopped_while_it_waits_it_keeps_a_checkpoint_and_goes_on_from_it(growing):
    growing.plan()
    growing.add(0)
    growing.add(1)
    few = {"views_per_batch": 6, "steps": 16}
    config = settings(growing.url, "waiting", follow=True, **few)
    stop = threading.Event()
    stopping = threading.Timer(3.0, stop.set)
    stopping.start()
    assert train(config, ALONE, stop) is None
    reached = checkpoint_steps(growing.store, "waiting")
    assert reached
    assert 0 < reached[-1] < 16
    growing.add(2)
    assert train(config, ALONE, threading.Event()) is not None

    compared = settings(growing.url, "compared", follow=True, **few)
    train(compared, ALONE, threading.Event())
    assert losses(config) == losses(compared)


def test_a_run_that_is_taken_over_while_it_waits_ends_at_once(growing, monkeypatch):
    monkeypatch.setattr(starts, "RENEW_SECONDS", 0.2)
    growing.plan()
    growing.add(0)

    def take_over() -> None:
        own = starts._this(ALONE.device, 1).model_copy(update={"host": "elsewhere"})
        assert starts._write(growing.store, "lost", 2, own, if_absent=True)

    threading.Timer(2.0, take_over).start()
    config = settings(growing.url, "lost", follow=True, views_per_batch=6, steps=16)
    with pytest.raises(AlreadyExists, match="another process trains run lost now"):
        train(config, ALONE, threading.Event())
    assert checkpoint_steps(growing.store, "lost") == []  # the other one's is not written over


def test_a_job_that_ended_without_its_shards_ends_the_run(growing):
    growing.plan()
    growing.add(0)
    growing.store.put(event_key("stripes", 1, "cancel"), b"{}")
    with pytest.raises(NotFound, match=r"shard \d of .*its job was cancelled or has failed"):
        train(settings(growing.url, "ended", follow=True), ALONE, threading.Event())


def test_images_of_ones_own_are_taken_as_they_are(growing):
    result = train(settings(growing.whole_url, "own", follow=True), ALONE, threading.Event())
    assert result is not None
    assert result["images_distinct"] == CAPTIONS * 3
    assert "shards_passed_over" not in result


def test_processes_wait_together_and_stop_together(tmp_path):
    growing = Growing(tmp_path)
    growing.plan()
    growing.add(0)
    growing.add(1)
    small = {"views_per_batch": 12, "steps": 8, "precision": "float64"}
    config = settings(growing.url, "several", follow=True, checkpoint_every=2, **small)
    launcher = ["torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m"]
    process = start(config, *launcher)
    wait_for_checkpoint(config, process, beyond=3)
    time.sleep(2)
    process.send_signal(signal.SIGTERM)
    printed = process.communicate(timeout=60)[0]
    assert "stopped; a checkpoint is in" in printed, printed
    growing.add(2)
    assert train(config, ALONE, threading.Event()) is not None

    whole = settings(growing.url, "whole", follow=True, **small)
    train(whole, ALONE, threading.Event())
    assert losses(config) == pytest.approx(losses(whole), abs=1e-4)
