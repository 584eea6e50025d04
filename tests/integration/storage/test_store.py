"""Stores keep their promises on a local folder and on a two real S3 servers alike."""

import hashlib
import logging
import multiprocessing
import os
import pickle
import random
import secrets
import socket
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from stablerep.captions import open_source, read_captions
from stablerep.config.settings import S3
from stablerep.errors import InvalidInput, NotFound, StoreRefused, TornObject, Unavailable
from stablerep.shards import (
    DatasetInfo,
    Group,
    build_tar,
    commit_shard,
    index_tar,
    read_dataset,
    read_group,
    read_index,
    write_dataset,
)
from stablerep.shards.layout import dataset_key, shard_key
from stablerep.storage import Store, open_store
from stablerep.testing.servers import MinioServer, S3Server, free_port


def access_to(server: S3Server, **changes: Any) -> S3:
    return S3(
        **{
            "endpoint": server.endpoint,
            "access_key": server.access_key,
            "secret_key": server.secret_key,
            **changes,
        }
    )


@pytest.fixture(params=["local", "minio", "versitygw"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """An empty store: a folder, then buckets of two S3 servers of different make."""
    if request.param == "local":
        return open_store(tmp_path / "store")
    server = request.getfixturevalue({"minio": "minio_server", "versitygw": "versity_server"}[request.param])
    return open_store(f"s3://test-{secrets.token_hex(6)}/data", s3=access_to(server))


def test_an_object_comes_back_as_it_was_put(store: Store) -> None:
    for data in (b"", b"x", bytes(range(256)) * 5000):
        assert store.put("a/b.bin", data) is True
        assert store.get("a/b.bin") == data
        info = store.stat("a/b.bin")
        assert info is not None
        assert (info.key, info.size) == ("a/b.bin", len(data))


def test_a_new_store_is_empty_and_reading_from_it_finds_nothing(store: Store) -> None:
    assert list(store.list()) == []
    assert list(store.list("datasets/")) == []
    assert store.stat("a") is None
    assert store.exists("a") is False
    store.delete("a")
    for read in (
        lambda: store.get("a"),
        lambda: store.get_range("a", 0, 1),
        lambda: store.get_range("a", 0, 0),
    ):
        with pytest.raises(NotFound, match="a"):
            read()


def test_a_missing_object_beside_others_is_not_found(store: Store) -> None:
    store.put("a/b", b"data")
    for key in ("a", "a/c", "a/b/c"):
        assert store.stat(key) is None
        store.delete(key)
        with pytest.raises(NotFound):
            store.get(key)
    assert store.get("a/b") == b"data"


def test_a_range_is_exactly_what_was_asked_for(store: Store) -> None:
    data = random.Random(0).randbytes(10_000)
    store.put("a", data)
    for offset, length in ((0, 10_000), (0, 1), (9_999, 1), (123, 4_567), (5, 0), (10_000, 0)):
        assert store.get_range("a", offset, length) == data[offset : offset + length]
    for offset, length in ((0, 10_001), (9_999, 2), (10_000, 1), (20_000, 5), (10_001, 0)):
        with pytest.raises(TornObject):
            store.get_range("a", offset, length)
    for offset, length in ((-1, 5), (0, -1)):
        with pytest.raises(InvalidInput):
            store.get_range("a", offset, length)


def test_put_replaces_but_if_absent_never_does(store: Store) -> None:
    assert store.put("a", b"first", if_absent=True) is True
    assert store.put("a", b"second", if_absent=True) is False
    assert store.get("a") == b"first"
    assert store.put("a", b"third") is True
    assert store.get("a") == b"third"
    store.delete("a")
    assert store.put("a", b"", if_absent=True) is True


@pytest.mark.parametrize("if_absent", [False, True])
def test_a_file_is_stored_as_bytes_are(store: Store, if_absent: bool, tmp_path: Path) -> None:
    data = random.Random(1).randbytes((20 << 20) + 7)  # more than one part of an S3 upload
    file = tmp_path / "large.bin"
    file.write_bytes(data)
    assert store.put("large", file, if_absent=if_absent) is True
    assert hashlib.sha256(store.get("large")).digest() == hashlib.sha256(data).digest()
    with pytest.raises(InvalidInput, match=r"missing\.bin"):
        store.put("other", tmp_path / "missing.bin", if_absent=if_absent)
    assert not store.exists("other")


@pytest.mark.parametrize("key", ["a b+c%20&=?#'\"", "ü/ñ/靴.json", "a/-/~!*()", "x" * 200])
def test_unusual_keys_work_in_every_method(store: Store, key: str) -> None:
    assert store.put(key, b"one", if_absent=True) is True
    assert store.put(key, b"two", if_absent=True) is False
    assert store.put(key, b"three") is True
    assert store.get(key) == b"three"
    assert store.get_range(key, 1, 2) == b"hr"
    assert [info.key for info in store.list()] == [key]
    assert [info.key for info in store.list(key)] == [key]
    store.delete(key)
    assert not store.exists(key)


def test_listing_is_in_key_order_and_by_prefix(store: Store) -> None:
    keys = ["a", "a-b/1", "a.json", "b/1", "b/1.json", "b/10", "b/2", "b-", "b/c/d", "bb", "ä", "Z"]
    keys.remove("a")  # an object a beside a-b/1 is fine, but see a/... in test_store_keys
    for key in random.Random(0).sample(keys, len(keys)):
        store.put(key, key.encode())
    assert [info.key for info in store.list()] == sorted(keys)
    for prefix in ("b", "b/", "b/1", "b/c", "b/c/", "b/c/d", "b/c/d/", "a", "zz", "Z"):
        assert [info.key for info in store.list(prefix)] == sorted(k for k in keys if k.startswith(prefix))
    for info in store.list():
        assert info == store.stat(info.key)


def test_listing_goes_beyond_one_page_of_the_server(store: Store) -> None:
    keys = [f"index/{number:06d}.json" for number in range(1_050)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b"{}"), keys))
    assert [info.key for info in store.list("index/")] == keys


def test_the_children_of_a_folder_are_named_in_order_folders_with_a_slash(store: Store) -> None:
    for key in ("a/b/1", "a/b/2", "a/b.json", "a/b-", "a/c/d/e", "a/z", "ab/1", "top", "ä"):
        store.put(key, b"x")
    assert list(store.children()) == ["a/", "ab/", "top", "ä"]
    assert list(store.children("a/")) == ["b-", "b.json", "b/", "c/", "z"]
    assert list(store.children("a/c/")) == ["d/"]
    assert list(store.children("nothing/")) == []
    assert list(store.children("top/")) == []
    for prefix in ("a", "/", "a//", "../"):
        with pytest.raises(InvalidInput):
            store.children(prefix)
    store.delete("a/c/d/e")  # the last object of its folders
    assert list(store.children("a/")) == ["b-", "b.json", "b/", "z"]


def test_children_beyond_one_page_of_the_server_are_in_order_files_and_folders_mixed(store: Store) -> None:
    names = [f"{number:04d}" + ("/x" if number % 3 == 0 else "") for number in range(1_300)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda name: store.put(f"many/{name}", b""), names))
    assert list(store.children("many/")) == [name.removesuffix("x") for name in names]


def test_many_objects_are_written_at_once_each_whole(store: Store) -> None:
    objects = {f"captions/{number:06d}": b"%d" % number * number for number in range(600)}
    assert store.put_many(iter(objects.items())) == 600
    assert [info.key for info in store.list()] == sorted(objects)
    assert all(store.get(key) == data for key, data in objects.items())
    assert store.put_many([("captions/000001", b"replaced")]) == 1
    assert store.get("captions/000001") == b"replaced"
    assert store.put_many([]) == 0
    with pytest.raises(InvalidInput):
        store.put_many([("fine", b""), ("../outside", b"")])


def test_many_objects_are_removed_and_only_those(store: Store) -> None:
    keys = [f"d/index/{number:06d} &.json" for number in range(1_100)]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda key: store.put(key, b"{}"), [*keys, "d/kept", "e"]))
    assert store.delete_many(iter([*keys, "d/index/gone", "gone/gone"])) == 1_102
    assert [info.key for info in store.list()] == ["d/kept", "e"]
    assert list(store.children("d/")) == ["kept"]
    assert store.delete_many([]) == 0
    assert store.delete_many(["d/kept", "e"]) == 2
    assert list(store.children()) == []
    with pytest.raises(InvalidInput):
        store.delete_many(["../outside"])


def test_nothing_is_there_to_remove_in_a_new_store(store: Store) -> None:
    assert store.delete_many(["a", "b/c"]) == 2


# versitygw keeps folders behind its objects; in this race it now and then answers ExistingObjectIsDirectory.
@pytest.mark.parametrize("store", ["local", "minio"], indirect=True)
def test_a_folder_emptied_while_others_write_into_it_loses_nothing(store: Store) -> None:
    def write(number: int) -> None:
        assert store.put(f"a/b/{number}", b"x", if_absent=True)

    with ThreadPoolExecutor(5) as pool:
        deleting = pool.submit(lambda: [store.delete_many(["a/b/other"]) for _ in range(300)])
        writing = [pool.submit(write, number) for number in range(100)]
        for number in range(50):
            store.put("a/b/other", b"%d" % number)
        deleting.result()
        for task in writing:
            task.result()
    assert {info.key for info in store.list()} - {"a/b/other"} == {f"a/b/{number}" for number in range(100)}


def test_the_etag_changes_with_the_bytes_even_at_the_same_size(store: Store) -> None:
    etags = []
    for data in (b"aaaa", b"bbbb", b"cccc"):
        store.put("a", data)
        info = store.stat("a")
        assert info is not None
        assert info == store.stat("a")
        etags.append(info.etag)
    assert len(set(etags)) == 3
    assert all(etags)


@pytest.mark.parametrize("attempt", range(3))
def test_of_many_threads_creating_one_object_exactly_one_wins(store: Store, attempt: int) -> None:
    datas = [f"writer {number}".encode() * (number + 1) for number in range(12)]
    with ThreadPoolExecutor(len(datas)) as pool:
        won = list(pool.map(lambda data: store.put("contested", data, if_absent=True), datas))
    assert won.count(True) == 1
    assert store.get("contested") == datas[won.index(True)]


def create(task: tuple[Store, int]) -> bool:
    """Runs in another process, to which the store has been pickled."""
    store, number = task
    return store.put("contested", b"process %d" % number, if_absent=True)


@pytest.mark.parametrize("method", ["spawn", "fork"])
def test_of_many_processes_creating_one_object_exactly_one_wins(store: Store, method: str) -> None:
    store.put("warm", b"the parent has a connection open")
    with ProcessPoolExecutor(3, mp_context=multiprocessing.get_context(method)) as pool:
        won = list(pool.map(create, [(store, number) for number in range(6)]))
    assert won.count(True) == 1
    assert store.get("contested") == b"process %d" % won.index(True)


def test_readers_never_see_a_half_written_object(store: Store) -> None:
    versions = [bytes([number]) * 300_000 for number in range(12)]
    store.put("a", versions[0])

    def write() -> None:
        for version in versions:
            store.put("a", version)

    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(write)
        seen = [store.get("a")]
        while not writing.done():
            seen.append(store.get("a"))
        writing.result()
    assert all(data in versions for data in seen)


def test_a_store_is_opened_again_from_its_pickle(store: Store) -> None:
    store.put("a", b"data")
    again = pickle.loads(pickle.dumps(store))
    assert again.url == store.url
    assert again.get("a") == b"data"


def test_a_connection_is_not_shared_with_a_forked_child(store: Store) -> None:
    """On one socket, either process could get the other's answer, or wait for one that the other took."""
    begin = time.monotonic()
    store.put("a", b"a" * 1000)
    store.put("b", b"b" * 1000)
    for _ in range(10):
        store.get("a")
        start = time.monotonic() + 0.05
        child = os.fork()
        key = "b" if child == 0 else "a"
        while time.monotonic() < start:  # both ask at the same moment
            pass
        fine = store.get(key) == key.encode() * 1000
        if child == 0:
            os._exit(0 if fine else 1)
        assert fine
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert time.monotonic() - begin < 30


def group(number: int, image: bytes) -> Group:
    return Group(number, f"caption {number}", (image, image * 2), {"seeds": [1, 2]})


def test_two_workers_with_different_tars_leave_a_tar_and_an_index_that_agree(store: Store) -> None:
    tars = [build_tar([group(n, b"worker %d" % w) for n in range(3)]) for w in range(6)]
    with ThreadPoolExecutor(len(tars)) as pool:
        returned = list(pool.map(lambda tar: commit_shard(store, "d", 0, tar), tars))
    stored = store.get(shard_key("d", 0))
    assert stored in tars
    assert returned == [index_tar(stored)] * len(tars)
    assert read_index(store, "d", 0) == index_tar(stored)


def test_a_group_is_read_by_its_index(store: Store) -> None:
    wanted = [group(number, b"image %d" % number) for number in range(4)]
    commit_shard(store, "d", 7, build_tar(wanted))
    index = read_index(store, "d", 7)
    assert index is not None
    assert [read_group(store, "d", 7, found) for found in index.groups] == wanted
    assert read_index(store, "d", 8) is None


def description(**changes: object) -> DatasetInfo:
    fields = {
        "name": "shoes",
        "recipe": {"model": "builtin:fashion", "steps": 20},
        "recipe_digest": "ab" * 32,
        "job_seed": -5,
        "captions_per_shard": 32,
        "source": {"uri": "captions.txt"},
        "create_time": datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC),
    }
    return DatasetInfo.model_validate(fields | changes)


def test_a_dataset_description_comes_back_and_a_second_one_is_told(store: Store) -> None:
    assert write_dataset(store, description(), if_absent=True) is True
    assert read_dataset(store, "shoes") == description()
    assert write_dataset(store, description(job_seed=6), if_absent=True) is False
    assert read_dataset(store, "shoes").job_seed == -5
    with pytest.raises(NotFound, match="boots"):
        read_dataset(store, "boots")


@pytest.mark.parametrize("data", [b"", b"{}", b"[]", b"\xff"])
def test_a_damaged_dataset_description_is_named(store: Store, data: bytes) -> None:
    store.put(dataset_key("shoes"), data)
    with pytest.raises(TornObject, match=r"datasets/shoes/dataset\.json"):
        read_dataset(store, "shoes")


def test_a_description_of_a_later_version_is_refused_rather_than_misread(store: Store) -> None:
    text = description().model_dump_json().replace('"schema_version":1', '"schema_version":2')
    store.put(dataset_key("shoes"), text.encode())
    with pytest.raises(TornObject, match="schema_version"):
        read_dataset(store, "shoes")


def test_captions_are_read_from_one_object_and_from_the_parts_of_an_upload(store: Store) -> None:
    text = "".join(f"caption {number} ü\n" for number in range(200_000)).encode()  # several read-aheads
    store.put("captions.txt", text)
    cuts = [0, 1, 1, 70_001, len(text) - 3, len(text)]  # an empty part, and cuts within characters and lines
    keys = [f"uploads/u/{number:06d}.part" for number in range(len(cuts) - 1)]
    for key, start, end in zip(keys, cuts, cuts[1:], strict=False):
        store.put(key, text[start:end])
    whole = open_source("captions.txt", store=store)
    parts = open_source(keys, store=store, name="captions.txt")
    assert whole.size == parts.size == len(text)
    wanted = [(number, f"caption {number} ü") for number in range(200_000)]
    assert list(read_captions(whole)) == wanted
    assert list(read_captions(parts)) == wanted
    with pytest.raises(NotFound, match=r"gone\.txt"):
        open_source("gone.txt", store=store)


def test_the_environment_says_where_s3_is(minio_server: MinioServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STABLEREP_S3__ENDPOINT", minio_server.endpoint)
    monkeypatch.setenv("STABLEREP_S3__ACCESS_KEY", minio_server.access_key)
    monkeypatch.setenv("STABLEREP_S3__SECRET_KEY", minio_server.secret_key)
    store = open_store("s3://from-environment/some/prefix/")
    store.put("a", b"data")
    assert store.url == "s3://from-environment/some/prefix"
    assert open_store(store.url).get("a") == b"data"
    assert [info.key for info in open_store("s3://from-environment").list()] == ["some/prefix/a"]


def test_two_prefixes_of_one_bucket_do_not_see_each_other(minio_server: MinioServer) -> None:
    access = access_to(minio_server)
    short, longer = (open_store(f"s3://prefixes/{name}", s3=access) for name in ("data", "data2"))
    short.put("a", b"1")
    longer.put("b", b"2")
    assert [info.key for info in short.list()] == ["a"]
    assert [info.key for info in longer.list()] == ["b"]


def test_writers_to_a_new_bucket_all_succeed(minio_server: MinioServer) -> None:
    access = access_to(minio_server)
    with ThreadPoolExecutor(6) as pool:
        won = pool.map(
            lambda n: open_store("s3://new-bucket", s3=access).put(f"{n}", b"x", if_absent=n % 2 == 0),
            range(6),
        )
    assert list(won) == [True] * 6


def test_no_signature_is_logged(minio_server: MinioServer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    store = open_store(f"s3://test-{secrets.token_hex(6)}", s3=access_to(minio_server))
    assert store.put("a/b", b"x", if_absent=True) is True
    assert "/a/b" in caplog.text
    assert "X-Amz-" not in caplog.text


def test_a_wrong_secret_is_an_error_that_says_what_to_check(minio_server: MinioServer) -> None:
    store = open_store("s3://bucket", s3=access_to(minio_server, secret_key="not the secret at all"))
    for call in (
        lambda: store.get("a"),
        lambda: store.put("a", b"x"),
        lambda: store.put("a", b"x", if_absent=True),
        lambda: list(store.list()),
    ):
        with pytest.raises(StoreRefused, match="secret key") as caught:
            call()
        assert "not the secret at all" not in str(caught.value)


@pytest.fixture
def silent_endpoint() -> Iterator[str]:
    """A server that takes connections and closes them without a word."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.1)
        with ThreadPoolExecutor(1) as pool:
            stop = False

            def hang_up() -> None:
                while not stop:
                    try:
                        server.accept()[0].close()
                    except TimeoutError:
                        continue

            pool.submit(hang_up)
            yield f"http://127.0.0.1:{server.getsockname()[1]}"
            stop = True


@pytest.mark.parametrize("kind", ["nobody listens", "hangs up"])
def test_a_server_that_does_not_answer_is_unavailable_soon_and_by_name(
    kind: str, silent_endpoint: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    endpoint = silent_endpoint if kind == "hangs up" else f"http://127.0.0.1:{free_port()}"
    store = open_store(
        "s3://bucket",
        s3=S3(endpoint=endpoint, access_key="key", secret_key="a secret key", region="us-east-1"),
    )
    for call in (
        lambda: store.get("a"),
        lambda: store.put("a", b"x"),
        lambda: store.put("a", b"x", if_absent=True),
        lambda: store.stat("a"),
        lambda: list(store.list()),
        lambda: store.delete("a"),
    ):
        start = time.monotonic()
        with pytest.raises(Unavailable, match=endpoint) as caught:
            call()
        assert time.monotonic() - start < 15
        assert "Signature" not in str(caught.value)
    assert "X-Amz-" not in caplog.text
    assert "Retrying" not in caplog.text
