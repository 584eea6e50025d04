"""Batches made by a process of their own: the same ones, and nothing left behind however a process ends."""

import os
import signal
import subprocess
import sys
import time
from functools import partial

import numpy as np
import psutil
import pytest
import torch

from stablerep.config.augment import AugmentConfig
from stablerep.data import GroupDataset
from stablerep.data.batches.loader import RankLoader
from stablerep.data.batches.order import BatchOrder
from stablerep.data.batches.process import shares_by_process
from stablerep.data.corpus.positive_sets import Corpus, make_positive_sets
from stablerep.data.images import ImageSource
from stablerep.errors import NotFound, StableRepError
from stablerep.shards import Group, build_tar, commit_shard
from stablerep.shards.layout import shard_key
from stablerep.storage import open_store
from tests.unit.data.test_batches import jpeg


def loader_of(url: str, view_size: int | None = 16, **settings) -> RankLoader:
    corpus = Corpus((GroupDataset(url),))
    sets = make_positive_sets(corpus.labels(), corpus.image_counts, at_least=2)
    order = BatchOrder(sets, seed=1, captions=4, images_per_caption=2)
    return RankLoader(
        order, ImageSource(corpus, memory=None), AugmentConfig(), 1, 0, 1, view_size=view_size, **settings
    )


@pytest.fixture
def url(tmp_path) -> str:
    """Twelve captions of three images, in three shards; two images are damaged."""
    store = open_store(tmp_path / "store")
    for shard in range(3):
        groups = []
        for caption_id in range(4 * shard, 4 * shard + 4):
            images = [jpeg(20 * caption_id + k, size=24) for k in range(3)]
            if caption_id in (2, 9):
                images[1] = b"no image"
            groups.append(Group(caption_id, f"caption {caption_id}", tuple(images)))
        commit_shard(store, "shoes", shard, build_tar(groups))
    return f"{store.url}/datasets/shoes"


def equal(one, other) -> bool:
    return all(
        torch.equal(a, b) if isinstance(a, torch.Tensor) else np.array_equal(a, b)
        for a, b in (
            (getattr(one, name), getattr(other, name))
            for name in ("step", "images", "labels", "label_counts", "groups", "numbers", "augmented")
        )
    )


@pytest.mark.parametrize("view_size", [16, None])
def test_batches_and_what_is_damaged_are_the_same(url, view_size):
    own, other = loader_of(url, view_size), loader_of(url, view_size)
    wanted = list(own.shares(2, 9, 2))
    there = partial(loader_of, url, view_size, memory="shared")
    assert there().share(2).images.is_shared()
    got = list(shares_by_process(other, there, 2, 9, 2))
    assert len(got) == 7
    assert all(equal(a, b) for a, b in zip(got, wanted, strict=True))
    assert own.source.damage() == other.source.damage() != {}
    assert own.source.counts() == other.source.counts()
    assert got[0].seconds.keys() == wanted[0].seconds.keys()


def test_its_error_is_raised_here(url, tmp_path):
    loader = loader_of(url)
    for shard in range(3):
        open_store(tmp_path / "store").delete(shard_key("shoes", shard))
    with pytest.raises(NotFound, match=r"shards/00000\d.tar"):
        list(shares_by_process(loader, partial(loader_of, url), 0, 5, 1))


def feeders() -> list[psutil.Process]:
    found = psutil.Process().children(recursive=True)
    return [one for one in found if "spawn_main" in " ".join(one.cmdline())]


def test_a_process_that_is_killed_is_told(url):
    shares = shares_by_process(loader_of(url), partial(loader_of, url), 0, 10**6, 1)
    next(shares)
    for one in feeders():
        one.send_signal(signal.SIGKILL)
    with pytest.raises(StableRepError, match=r"ended \(exit status -9\); was it killed"):
        for _ in shares:
            pass
    assert feeders() == []


def test_it_ends_when_nobody_wants_more(url):
    shares = shares_by_process(loader_of(url), partial(loader_of, url), 0, 10**6, 1)
    next(shares)
    assert len(feeders()) == 1
    shares.close()
    assert feeders() == []


def test_it_ends_with_a_trainer_that_is_killed(url):
    program = (
        "import sys\n"
        "from functools import partial\n"
        "from stablerep.data.batches.process import shares_by_process\n"
        "from tests.integration.training.test_load_in_process import loader_of\n"
        "if __name__ == '__main__':\n"
        "    make = partial(loader_of, sys.argv[1])\n"
        "    shares = shares_by_process(make(), make, 0, 10**6, 1)\n"
        "    next(shares)\n"
        "    print('ready', flush=True)\n"
        "    sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    ) as trainer:
        assert trainer.stdout is not None
        assert trainer.stdout.readline() == "ready\n"
        children = psutil.Process(trainer.pid).children(recursive=True)
        assert any("spawn_main" in " ".join(one.cmdline()) for one in children)
        trainer.kill()
        trainer.wait()
    deadline = time.monotonic() + 30
    while any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in children):
        assert time.monotonic() < deadline, "the process that feeds it is still there"
        time.sleep(0.1)
