"""Views of many jobs: those of one job at a time, with each job's records read once."""

import threading
from dataclasses import replace

import pytest

from stablerep.config.recipe import load_recipe
from stablerep.jobs.control import cancel_job, delete_job, pause_job
from stablerep.jobs.job import CaptionSource, JobSpec
from stablerep.jobs.planning.create import create_job
from stablerep.jobs.planning.plan import plan
from stablerep.jobs.view import JobViews, job_view
from stablerep.shards.layout import create_key
from stablerep.storage import open_store

NAMES = [f"job-{number}" for number in range(5)]


class Reads:
    """A store that counts what is read from it."""

    def __init__(self, store) -> None:
        self._store, self.keys = store, []

    def get(self, key):
        self.keys.append(key)
        return self._store.get(key)

    def __getattr__(self, name):
        return getattr(self._store, name)


@pytest.fixture
def store(tmp_path):
    return Reads(open_store(tmp_path / "store"))


def make(store, queue, name, seed=0):
    spec = JobSpec(
        dataset=name,
        recipe=load_recipe("tiny"),
        source=CaptionSource(uri="sources/captions.txt"),
        captions_per_shard=4,
        seed=seed,
        priority=0,
        request_id=name,
    )
    store.put("sources/captions.txt", b"a shoe\na bag\n")
    create_job(store, queue, spec)
    plan(store, queue, name, threading.Event())


def without_clock(view):
    return replace(view, outlook=view.outlook and replace(view.outlook, start=None, end=None))


def test_they_are_those_of_one_job_at_a_time(store, queue):
    for number, name in enumerate(NAMES):
        make(store, queue, name, seed=number)
    cancel_job(store, queue, NAMES[1])
    views, stats = JobViews(store, queue), queue.stats()
    expected = [without_clock(job_view(store, queue, name, stats)) for name in NAMES]
    for _ in range(2):
        assert [without_clock(view) for view in views.views([*NAMES, "nobody"], stats)] == expected


def test_records_are_read_once_and_again_where_a_job_has_changed(store, queue):
    for name in NAMES:
        make(store, queue, name)
    views = JobViews(store, queue)
    views.views(NAMES)
    store.keys.clear()
    views.views(NAMES)
    assert store.keys == []
    pause_job(store, queue, NAMES[2])
    store.keys.clear()
    assert views.views(NAMES)[2] == job_view(store, queue, NAMES[2])
    assert {key.split("/")[1] for key in store.keys if "/" in key} == {NAMES[2]}


def test_another_job_of_the_same_name_is_not_taken_for_the_one_before(store, queue):
    make(store, queue, "shoes", seed=1)
    views = JobViews(store, queue)
    assert [view.seed for view in views.views(["shoes"])] == [1]
    delete_job(store, queue, "shoes", delete_data=True, force=True)
    assert views.views(["shoes"]) == []
    make(store, queue, "shoes", seed=2)
    assert [view.seed for view in views.views(["shoes"])] == [2]


def test_jobs_without_records_or_with_torn_ones_are_left_out(store, queue, caplog):
    for name in NAMES:
        make(store, queue, name)
    store.delete(create_key(NAMES[3]))
    store.put(create_key(NAMES[1]), b"{")
    views = JobViews(store, queue)
    for _ in range(2):
        assert [view.dataset for view in views.views(NAMES)] == [NAMES[0], NAMES[2], NAMES[4]]
    assert caplog.text.count("left out") == 1
    assert NAMES[1] in caplog.text
