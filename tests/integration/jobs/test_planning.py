"""Jobs from request to last planned shard, on real stores and servers, with planners that stop and die."""

import json
import subprocess
import sys
import threading
import time
from dataclasses import replace

import pytest
import redis

from stablerep.captions import CaptionReport
from stablerep.config.recipe import load_recipe
from stablerep.data.corpus.planned import read_plan
from stablerep.errors import AlreadyExists, InvalidInput, NotFound
from stablerep.jobs.control import cancel_job, record_dead
from stablerep.jobs.job import CaptionSource, JobSpec
from stablerep.jobs.planning import plan as planning
from stablerep.jobs.planning.caption_writer import BATCH_SHARDS, BATCHES
from stablerep.jobs.planning.create import create_job
from stablerep.jobs.planning.plan import plan
from stablerep.jobs.view import job_view
from stablerep.queue.states import Counts, JobState
from stablerep.shards import read_captions, read_dataset
from stablerep.shards.layout import (
    captions_key,
    captions_prefix,
    create_key,
    dead_key,
    plan_key,
    plan_prefix,
    planned_key,
    upload_key,
    upload_part_key,
)
from stablerep.storage import open_store

NEVER = threading.Event()
SOURCE = CaptionSource(uri="sources/captions.txt")
PLANNER = """
import sys, threading
from stablerep.jobs.planning.plan import plan
from stablerep.queue.client import Queue
from stablerep.storage import open_store
plan(open_store(sys.argv[1]), Queue(sys.argv[2]), "shoes", threading.Event())
"""


@pytest.fixture
def lose_redis(redis_url):
    """Call it, and Redis has lost everything."""
    client = redis.Redis.from_url(redis_url)
    yield client.flushall
    client.close()


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "store")


@pytest.fixture
def spec():
    return JobSpec(
        dataset="shoes",
        recipe=load_recipe("tiny"),
        source=SOURCE,
        captions_per_shard=4,
        seed=7,
        priority=2,
        request_id="r1",
    )


class StopAfter:
    """Says stop at the n-th time it is asked."""

    def __init__(self, times):
        self.times = times

    def is_set(self):
        self.times -= 1
        return self.times < 0


class Recording:
    """A store that notes what is written, in order."""

    def __init__(self, store):
        self._store = store
        self.written = []

    def __getattr__(self, name):
        return getattr(self._store, name)

    def put(self, key, data, *, if_absent=False):
        self.written.append(key)
        return self._store.put(key, data, if_absent=if_absent)

    def put_many(self, objects):
        objects = list(objects)
        self.written += [key for key, _ in objects]
        return self._store.put_many(objects)


def texts(number):
    return [f"a shoe, number {index}" for index in range(number)]


def put_source(store, number=10, key=SOURCE.uri):
    store.put(key, "\n".join(texts(number)).encode())


def planned_captions(store, dataset="shoes"):
    """Every planned caption in order of shards, from the objects there are."""
    shards = len(list(store.list(captions_prefix(dataset))))
    return [[tuple(c) for c in read_captions(store, dataset, shard)] for shard in range(shards)]


def lease_all(queue):
    taken = []
    queue.begin_epoch()  # Redis may have lost it
    while lease := queue.lease("w", 60):
        taken.append(lease.shard)
        queue.complete(lease, groups=0, images=0, skipped=0)
    return taken


def test_a_job_is_planned_into_the_store_and_the_queue(store_url, queue, spec):
    store = Recording(open_store(store_url))
    store.put(SOURCE.uri, b"first\n\nsecond\n" + "\n".join(texts(8)).encode() + b"\n\xff\xfe\n")
    assert create_job(store, queue, spec) == spec
    assert job_view(store, queue, "shoes").state is JobState.PLANNING
    assert queue.status("shoes").priority == 2
    plan(store, queue, "shoes", NEVER)

    shards = planned_captions(store)
    assert [len(shard) for shard in shards] == [4, 4, 2]
    lines = ["first", None, "second", *texts(8)]
    assert [caption for shard in shards for caption in shard] == [
        (index, line) for index, line in enumerate(lines) if line
    ]
    assert store.written[-1] == planned_key("shoes")
    assert store.written.index(create_key("shoes")) == 1
    (whole,) = read_plan(store, "shoes", 3)
    assert [info.key for info in store.list(plan_prefix("shoes"))] == [plan_key("shoes", 0)]
    assert (whole.sizes, whole.texts.to_pylist()) == ([4, 4, 2], [line for line in lines if line])
    view = job_view(store, queue, "shoes")
    assert view.state is JobState.RUNNING
    assert view.counts == Counts(planned=3, pending=3)
    assert view.captions == 10
    assert view.report == CaptionReport(lines=12, captions=10, empty=1, bad_encoding=1)
    assert (view.recipe, view.source, view.seed, view.captions_per_shard, view.priority) == (
        spec.recipe,
        SOURCE,
        7,
        4,
        2,
    )
    assert (view.end_time, view.error) == (None, "")
    info = read_dataset(store, "shoes")
    assert info.recipe_digest == spec.recipe.digest
    assert type(spec.recipe)(**info.recipe) == spec.recipe
    assert info.counts == {"shards": 3, "captions": 10}
    assert (info.job_seed, info.captions_per_shard) == (7, 4)
    assert info.source["uri"] == SOURCE.uri
    assert info.source["size"] == store.stat(SOURCE.uri).size
    assert lease_all(queue) == [0, 1, 2]
    assert job_view(store, queue, "shoes").state is JobState.SUCCEEDED
    assert job_view(store, queue, "shoes").end_time is not None


def test_an_upload_is_read_across_its_parts(store, queue, spec):
    data = "\n".join(texts(10)).encode()
    parts = [data[:37], data[37:38], data[38:]]
    for number, part in enumerate(parts):
        store.put(upload_part_key("u1", number), part)
    facts = {"file_name": "my captions.txt", "parts": 3, "size": len(data)}
    store.put(upload_key("u1"), json.dumps(facts).encode())
    create_job(store, queue, replace(spec, source=CaptionSource(upload_id="u1")))
    plan(store, queue, "shoes", NEVER)
    assert [caption for shard in planned_captions(store) for _, caption in shard] == texts(10)
    assert read_dataset(store, "shoes").source["size"] == len(data)


def test_options_of_the_source_are_followed(store, queue, spec):
    store.put("sources/table", b"a,b\n1,one\n2,two\n3,three\n")
    source = CaptionSource(uri="sources/table", format="csv", column="b", limit=2)
    create_job(store, queue, replace(spec, source=source))
    plan(store, queue, "shoes", NEVER)
    assert [caption for shard in planned_captions(store) for _, caption in shard] == ["one", "two"]


def test_the_same_request_returns_the_job_and_changes_nothing(store, queue, spec):
    put_source(store)
    create_job(store, queue, spec)
    before = job_view(store, queue, "shoes")
    assert create_job(store, queue, spec) == spec
    assert create_job(store, queue, replace(spec, request_id="r2")) == spec
    assert job_view(store, queue, "shoes") == before
    plan(store, queue, "shoes", NEVER)
    lease_all(queue)
    store.delete(SOURCE.uri)  # needed no more
    create_job(store, queue, spec)
    assert queue.state("shoes") is JobState.SUCCEEDED


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("recipe.steps", {"recipe": load_recipe("tiny", {"steps": "21"})}),
        ("source", {"source": CaptionSource(uri="sources/other.txt")}),
        ("source", {"source": CaptionSource(uri=SOURCE.uri, limit=3)}),
        ("seed", {"seed": 8}),
        ("captions_per_shard", {"captions_per_shard": 5}),
        ("priority", {"priority": 3}),
    ],
)
def test_another_request_for_the_name_is_refused_naming_what_differs(store, queue, spec, field, change):
    put_source(store)
    put_source(store, key="sources/other.txt")
    create_job(store, queue, spec)
    with pytest.raises(AlreadyExists, match="shoes") as caught:
        create_job(store, queue, replace(spec, **change))
    assert caught.value.field == field
    assert job_view(store, queue, "shoes").seed == 7


def test_the_same_request_for_other_bytes_is_refused(store, queue, spec):
    put_source(store)
    create_job(store, queue, spec)
    plan(store, queue, "shoes", NEVER)
    put_source(store, 11)
    with pytest.raises(AlreadyExists) as caught:
        create_job(store, queue, spec)
    assert caught.value.field == "source"


def test_a_dataset_that_no_job_made_is_left_alone(store, queue, spec):
    put_source(store)
    store.put("datasets/shoes/dataset.json", b"{}")
    with pytest.raises(AlreadyExists) as caught:
        create_job(store, queue, spec)
    assert caught.value.field == "dataset"
    assert store.get("datasets/shoes/dataset.json") == b"{}"
    assert queue.jobs() == []


def test_a_job_needs_a_source_that_exists(store, queue, spec):
    with pytest.raises(NotFound, match=r"captions\.txt"):
        create_job(store, queue, spec)
    assert queue.jobs() == []
    assert not store.exists(create_key("shoes"))


def test_of_two_requests_at_once_one_has_the_name(store_url, queue, spec):
    store = open_store(store_url)
    put_source(store)
    outcomes = []

    def ask(seed):
        try:
            outcomes.append(create_job(open_store(store_url), queue, replace(spec, seed=seed)).seed)
        except AlreadyExists as error:
            outcomes.append(error.field)

    threads = [threading.Thread(target=ask, args=(seed,)) for seed in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    winner = job_view(store, queue, "shoes").seed
    assert sorted(outcomes, key=str) == [winner, *["seed"] * 5]
    assert read_dataset(store, "shoes").job_seed == winner


def test_a_planner_stops_between_shards_and_another_goes_on(store, queue, spec):
    recording = Recording(store)
    put_source(store, 18)
    create_job(recording, queue, spec)
    plan(recording, queue, "shoes", StopAfter(2))
    view = job_view(store, queue, "shoes")
    assert (view.state, view.counts.planned, view.captions) == (JobState.PLANNING, 2, 8)
    assert view.report is None
    assert lease_all(queue) == [0, 1]
    plan(recording, queue, "shoes", NEVER)
    written = [key for key in recording.written if "/captions/" in key]
    assert written == [captions_key("shoes", shard) for shard in range(5)]  # each once
    assert job_view(store, queue, "shoes").captions == 18
    assert lease_all(queue) == [2, 3, 4]


def test_a_planner_killed_in_the_middle_is_replaced_without_planning_a_shard_twice(
    store, redis_url, queue, spec
):
    put_source(store, 20_000)
    create_job(store, queue, spec)
    planner = subprocess.Popen([sys.executable, "-c", PLANNER, store.url, redis_url])
    while queue.counts("shoes").planned < 500:
        time.sleep(0.002)
    planner.kill()
    planner.wait()
    assert queue.state("shoes") is JobState.PLANNING
    early = {info.key: info.etag for info in store.list(captions_prefix("shoes"))}
    early_files = len(list(store.list(plan_prefix("shoes"))))
    assert 500 <= len(early) < 5_000
    recording = Recording(store)
    plan(recording, queue, "shoes", NEVER)
    written = {key for key in recording.written if "/captions/" in key}
    assert (
        len(written & early.keys()) <= (BATCHES + 1) * BATCH_SHARDS
    )  # written, and the queue not told in time
    assert len(written | early.keys()) == 5_000
    assert [caption for shard in planned_captions(store) for caption in shard] == list(
        enumerate(texts(20_000))
    )
    assert queue.counts("shoes") == Counts(planned=5_000, pending=5_000)
    assert queue.state("shoes") is JobState.RUNNING
    plan_files = [plan_key("shoes", first) for first in range(0, 5_000, 1_000)]
    assert [info.key for info in store.list(plan_prefix("shoes"))] == plan_files
    assert [key for key in recording.written if "/plan/" in key] == plan_files[early_files:]
    found = read_plan(store, "shoes", 5_000)
    assert [len(part.sizes) for part in found] == [1_000] * 5
    assert [text for part in found for text in part.texts.to_pylist()] == texts(20_000)


def test_planning_again_changes_nothing(store, queue, spec):
    put_source(store)
    create_job(store, queue, spec)
    plan(store, queue, "shoes", NEVER)
    before = {info.key: info.etag for info in store.list()}
    view = job_view(store, queue, "shoes")
    plan(store, queue, "shoes", NEVER)
    assert {info.key: info.etag for info in store.list()} == before
    assert job_view(store, queue, "shoes") == view


def test_a_job_that_redis_never_heard_of_or_lost_is_planned_from_the_store(store, queue, spec, lose_redis):
    put_source(store)
    create_job(store, queue, spec)
    lose_redis()
    plan(store, queue, "shoes", StopAfter(1))
    lose_redis()
    plan(store, queue, "shoes", NEVER)
    assert queue.counts("shoes").planned == 3
    lose_redis()
    plan(store, queue, "shoes", NEVER)
    assert queue.status("shoes").priority == 2
    assert lease_all(queue) == [0, 1, 2]


def test_a_source_without_a_usable_caption_fails_the_job_and_shows_its_report(store, queue, spec, lose_redis):
    store.put(SOURCE.uri, b"\n\n" + b"x" * 2000 + b"\n")
    create_job(store, queue, spec)
    plan(store, queue, "shoes", NEVER)
    view = job_view(store, queue, "shoes")
    assert view.state is JobState.FAILED
    assert "no usable caption" in view.error
    assert view.report == CaptionReport(lines=3, empty=2, too_long=1)
    assert view.end_time is not None
    assert not store.exists(planned_key("shoes"))
    store.put(SOURCE.uri, b"now there is one\n")
    lose_redis()
    plan(store, queue, "shoes", NEVER)  # failed for good, whatever Redis remembers
    assert job_view(store, queue, "shoes").error == view.error


@pytest.mark.parametrize("change", ["replaced", "shorter", "deleted"])
def test_a_source_that_changed_before_planning_went_on_fails_the_job(store, queue, spec, change):
    put_source(store, 18)
    create_job(store, queue, spec)
    plan(store, queue, "shoes", StopAfter(2))
    if change == "deleted":
        store.delete(SOURCE.uri)
    else:
        put_source(store, 19 if change == "replaced" else 3)
    plan(store, queue, "shoes", NEVER)
    view = job_view(store, queue, "shoes")
    assert view.state is JobState.FAILED
    assert ("is gone" if change == "deleted" else "has changed") in view.error
    assert queue.lease("w", 60) is None


def test_a_source_replaced_while_it_is_read_fails_the_job(store, queue, spec):
    put_source(store, 18)
    create_job(store, queue, spec)

    class ReplaceThen:
        asked = 0

        def is_set(self):
            self.asked += 1
            if self.asked == 3:
                put_source(store, 19)
            return False

    plan(store, queue, "shoes", ReplaceThen())
    assert "has changed" in job_view(store, queue, "shoes").error
    assert not store.exists(planned_key("shoes"))


def test_a_job_of_too_many_shards_fails_saying_what_to_change(store, queue, spec, monkeypatch):
    monkeypatch.setattr(planning, "MAX_SHARDS", 2)
    put_source(store)
    create_job(store, queue, spec)
    plan(store, queue, "shoes", NEVER)
    assert "captions_per_shard" in job_view(store, queue, "shoes").error


def test_cancelling_stops_planning_and_is_kept_in_the_store(store, queue, spec, lose_redis):
    put_source(store, 18)
    create_job(store, queue, spec)

    class CancelThen:
        asked = 0

        def is_set(self):
            self.asked += 1
            if self.asked == 2:
                cancel_job(store, queue, "shoes")
            return False

    plan(store, queue, "shoes", CancelThen())
    view = job_view(store, queue, "shoes")
    assert view.state is JobState.CANCELLED
    assert view.counts.planned == 0
    assert queue.lease("w", 60) is None
    assert not store.exists(planned_key("shoes"))
    assert cancel_job(store, queue, "shoes") is JobState.CANCELLED
    lose_redis()
    plan(store, queue, "shoes", NEVER)
    assert queue.state("shoes") is JobState.CANCELLED
    assert len([info for info in store.list("datasets/shoes/job/") if "cancel" in info.key]) == 1


def test_cancelling_a_finished_job_leaves_no_event(store, queue, spec):
    put_source(store)
    create_job(store, queue, spec)
    plan(store, queue, "shoes", NEVER)
    lease_all(queue)
    assert cancel_job(store, queue, "shoes") is JobState.SUCCEEDED
    assert not [info for info in store.list("datasets/shoes/job/") if "cancel" in info.key]
    with pytest.raises(NotFound):
        cancel_job(store, queue, "nope")


def test_dead_shards_fail_the_job_with_their_error_and_are_kept(store, queue, spec):
    put_source(store)
    create_job(store, queue, spec)
    plan(store, queue, "shoes", NEVER)
    for _ in range(9):
        lease = queue.lease("w", 60)
        if lease is not None and lease.shard == 1:
            queue.fail(lease, "out of memory")
        elif lease is not None:
            queue.complete(lease, groups=4, images=16, skipped=0)
    view = job_view(store, queue, "shoes")
    assert view.state is JobState.FAILED
    assert view.error == "1 of 3 shards are dead; shard 1: out of memory"
    assert (view.counts.done, view.counts.dead, view.counts.groups) == (2, 1, 8)
    record_dead(store, queue, "shoes")
    record_dead(store, queue, "shoes")
    assert json.loads(store.get(dead_key("shoes", 1))) == {"shard": 1, "error": "out of memory"}


def test_unknown_jobs_are_not_found(store, queue):
    with pytest.raises(NotFound):
        plan(store, queue, "nope", NEVER)
    with pytest.raises(NotFound):
        job_view(store, queue, "nope")


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("dataset", {"dataset": "../x"}),
        ("dataset", {"dataset": ""}),
        ("dataset", {"dataset": "A"}),
        ("dataset", {"dataset": "a" * 64}),
        ("dataset", {"dataset": "a\n"}),
        ("captions_per_shard", {"captions_per_shard": 0}),
        ("priority", {"priority": 10}),
        ("priority", {"priority": -1}),
        ("seed", {"seed": 2**63}),
    ],
)
def test_a_request_out_of_range_names_its_field(spec, field, change):
    with pytest.raises(InvalidInput) as caught:
        replace(spec, **change)
    assert caught.value.field == field


@pytest.mark.parametrize("source", [{}, {"uri": "a", "upload_id": "b"}, {"uri": "a", "limit": -1}])
def test_a_source_is_one_of_two_kinds(source):
    with pytest.raises(InvalidInput) as caught:
        CaptionSource(**source)
    assert caught.value.field.startswith("source")
