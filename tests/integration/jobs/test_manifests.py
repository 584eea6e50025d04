"""Manifests of jobs' datasets follow their shards: made, retried, taken back, deleted, on real servers."""

import logging
import threading

import pytest

from services.gateway.manifests import Manifests
from stablerep.data import GroupDataset
from stablerep.errors import NotFound
from stablerep.jobs.control import delete_job, record_dead, retry_job
from stablerep.jobs.manifests import update_manifest
from stablerep.queue.states import JobState
from stablerep.shards.layout import block_key, dataset_prefix, index_key, shard_key
from stablerep.shards.manifest import read_manifest
from stablerep.storage import open_store
from tests.reconciling import bury, rebuilt, reconcile_job, submit, work

LOCAL = pytest.mark.parametrize("store_url", ["local"], indirect=True)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "stablerep" / "manifests"


@pytest.fixture
def store(store_url, queue):
    store = open_store(store_url)
    assert rebuilt(store, queue)
    return store


@pytest.fixture
def look(store, queue):
    """One round of the gateway's."""
    return Manifests(store, queue, threading.Event())._round


def held(store, dataset: str = "shoes") -> list[list[int]]:
    return [block.shards for block in read_manifest(store, dataset).blocks]


def captions(store, dataset: str = "shoes") -> list[str]:
    found = GroupDataset(f"{store.url}/datasets/{dataset}")
    assert [group.caption for group in found] == list(found.captions)
    return list(found.captions)


def test_a_job_that_is_over_has_a_manifest_and_its_dataset_is_the_same(store, queue, look):
    submit(store, queue, "shoes", 10)
    look()
    assert held(store) == []
    work(store, queue)
    without = captions(store)
    look()
    assert held(store) == [[0, 1, 2, 3, 4]]
    assert captions(store) == without
    before = read_manifest(store, "shoes")
    look()
    Manifests(store, queue, threading.Event())._round()  # that of a gateway which was started again
    assert read_manifest(store, "shoes") == before


@LOCAL
def test_a_block_is_written_while_the_job_goes_on(store, queue, look):
    submit(store, queue, "shoes", 1003, per_shard=1)
    work(store, queue, 999)
    look()
    assert held(store) == []
    work(store, queue, 2)
    look()
    assert held(store) == [list(range(1000))]
    assert len(GroupDataset(f"{store.url}/datasets/shoes").shards) == 1001
    work(store, queue)
    look()
    assert held(store) == [list(range(1000)), [1000, 1001, 1002]]


def test_a_shard_that_is_retried_comes_into_the_manifest(store, queue, look):
    submit(store, queue, "shoes", 6)
    bury(queue, "shoes", 1, "out of memory")
    record_dead(store, queue, "shoes")
    work(store, queue)
    assert queue.state("shoes") is JobState.FAILED
    look()
    assert held(store) == [[0, 2]]
    retry_job(store, queue, "shoes")
    look()
    work(store, queue)
    assert len(captions(store)) == 5, "the shard itself counts, before the manifest has it"
    look()
    assert held(store) == [[0, 1, 2]]
    assert len(captions(store)) == 5


def test_a_shard_that_is_taken_back_leaves_the_manifest_first(store, queue, look, monkeypatch):
    submit(store, queue, "shoes", 6)
    work(store, queue)
    look()
    store.put(shard_key("shoes", 1), b"torn")
    deleted = []
    delete = store.delete
    with monkeypatch.context() as patched:
        patched.setattr(store, "delete", lambda key: (deleted.append((key, held(store))), delete(key))[1])
        found = reconcile_job(store, queue, "shoes")
    assert found.torn == 1
    assert dict(deleted)[index_key("shoes", 1)] == []
    assert held(store) == []
    assert len(captions(store)) == 4
    work(store, queue)
    look()
    assert held(store) == [[0, 1, 2]]


@pytest.mark.parametrize("damage", ["stale", "torn", "lost"])
def test_reconcile_renews_a_manifest(store, queue, look, damage):
    submit(store, queue, "shoes", 6)
    work(store, queue)
    look()
    before = read_manifest(store, "shoes")
    block = block_key("shoes", 0, before.blocks[0].sha256)
    if damage == "torn":
        store.put(block, store.get(block)[:-1])
    if damage == "stale":  # two blocks of another dataset in its place
        submit(store, queue, "hats", 6)
        work(store, queue)
        look()
        other = read_manifest(store, "hats")
        store.put(
            block_key("shoes", 0, other.blocks[0].sha256),
            store.get(block_key("hats", 0, other.blocks[0].sha256)),
        )
        store.put("datasets/shoes/manifest/manifest.json", other.model_dump_json().encode())
    if damage == "lost":
        for info in list(store.list("datasets/shoes/manifest/")):
            store.delete(info.key)
    found = reconcile_job(store, queue, "shoes")
    assert found.problems == (
        () if damage == "lost" else ("block 0 of the manifest was not what the indexes say; it is made anew",)
    )
    assert read_manifest(store, "shoes") == before
    assert len(captions(store)) == 5
    assert reconcile_job(store, queue, "shoes").problems == ()


def test_a_deleted_job_leaves_no_manifest_whoever_was_at_it(store, queue, look):
    submit(store, queue, "shoes", 6)
    work(store, queue)
    look()
    delete_job(store, queue, "shoes", delete_data=True)
    assert list(store.list(dataset_prefix("shoes"))) == []
    with pytest.raises(NotFound):
        update_manifest(store, queue, "shoes", 3, over=True)
    look()
    assert list(store.list(dataset_prefix("shoes"))) == []


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_one_copy_serves_all_processes_of_a_machine(store, queue, look, cache, monkeypatch, caplog):
    submit(store, queue, "shoes", 6)
    work(store, queue)
    look()
    whole = captions(store)
    (copy,) = cache.glob("*.arrow")
    good = copy.read_bytes()
    with monkeypatch.context() as patched:
        patched.setattr("stablerep.data.corpus.block_files._write_copy", None)
        assert captions(store) == whole
    copy.write_bytes(good[:-1] + b"?")
    with caplog.at_level(logging.WARNING):
        assert captions(store) == whole
    assert copy.read_bytes() == good, "a damaged copy is fetched again"
    assert not caplog.records
    key = block_key("shoes", 0, read_manifest(store, "shoes").blocks[0].sha256)
    store.put(key, b"torn")
    copy.unlink()
    with caplog.at_level(logging.WARNING):
        assert captions(store) == whole, "the indexes are read"
    assert [record.message.startswith("block 0 of the manifest") for record in caplog.records] == [True]


@pytest.mark.parametrize("store_url", ["s3"], indirect=True)
def test_without_a_folder_for_copies_each_process_holds_its_own(
    store, queue, look, tmp_path, monkeypatch, caplog
):
    submit(store, queue, "shoes", 6)
    work(store, queue)
    look()
    file = tmp_path / "file"
    file.touch()
    monkeypatch.setenv("XDG_CACHE_HOME", str(file))
    monkeypatch.setattr("tempfile.gettempdir", lambda: str(file))
    with caplog.at_level(logging.WARNING):
        assert len(captions(store)) == 5
    assert "each process holds it" in caplog.text
