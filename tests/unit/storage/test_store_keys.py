"""Keys, names and URLs: what every store takes and what it refuses, before anything is written."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stablerep.config.names import DATASET_NAME
from stablerep.config.settings import S3
from stablerep.errors import InvalidInput, NotFound, StoreError
from stablerep.shards import layout
from stablerep.storage import open_store
from stablerep.storage.keys import check_key
from stablerep.storage.s3.client import check_access, connect

REFUSED = {
    "empty": "",
    "parent": "a/../b",
    "only parent": "..",
    "same folder": "a/./b",
    "absolute": "/etc/passwd",
    "double slash": "a//b",
    "trailing slash": "a/",
    "backslash": "a\\b",
    "newline": "a\nb",
    "nul": "a\0b",
    "delete": "a\x7f",
    "line separator": "a\u2028b",
    "lone surrogate": "a\ud800",
    "reserved for files being written": "a/.tmp-0123",
    "long": "a/" * 256 + "b",
    "long in bytes, not characters": "/".join(["ü" * 100] * 3),
    "long part": "a/" + "b" * 256,
}


def access(**changes: Any) -> S3:
    return S3(**{"endpoint": "http://127.0.0.1:1", "access_key": "key", "secret_key": "secret", **changes})


@pytest.mark.parametrize("key", REFUSED.values(), ids=REFUSED.keys())
def test_a_key_that_not_every_store_can_hold_is_refused_by_every_method(key: str, tmp_path: Path) -> None:
    for store in (open_store(tmp_path / "store"), open_store("s3://bucket", s3=access())):
        calls: list[Callable[[], object]] = [
            lambda s=store: s.get(key),
            lambda s=store: s.get_range(key, 0, 1),
            lambda s=store: s.put(key, b"x"),
            lambda s=store: s.put(key, b"x", if_absent=True),
            lambda s=store: s.stat(key),
            lambda s=store: s.exists(key),
            lambda s=store: s.delete(key),
        ]
        for call in calls:
            with pytest.raises(InvalidInput) as caught:
                call()
            assert caught.value.field == "key"
    assert list(tmp_path.rglob("*")) == []


@pytest.mark.parametrize("key", ["a", "a/b.tar", "a b", "ü/ñ", "a%2e%2e/b", "-", "...", ".hidden", "x" * 255])
def test_an_unusual_but_harmless_key_is_taken(key: str, tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put(key, b"data")
    assert [info.key for info in store.list()] == [key]
    assert (tmp_path / key).read_bytes() == b"data"


@settings(max_examples=150, deadline=None)
@given(st.text(alphabet=st.sampled_from("ab./\\-~ \n\0ü\ud800"), max_size=12))
def test_no_key_leaves_the_stores_folder(tmp_path_factory: pytest.TempPathFactory, key: str) -> None:
    root = tmp_path_factory.mktemp("keys")
    store = open_store(root / "inside")
    try:
        store.put(key, b"data")
    except InvalidInput:
        assert list(root.iterdir()) == []
    else:
        assert [info.key for info in store.list()] == [key]
        assert [path.name for path in root.iterdir()] == ["inside"]


def test_reading_from_a_folder_that_is_not_there_makes_none(tmp_path: Path) -> None:
    store = open_store(tmp_path / "typo" / "store")
    assert list(store.list()) == []
    assert not store.exists("a")
    store.delete("a")
    for read in (lambda: store.get("a"), lambda: store.get_range("a", 0, 1)):
        with pytest.raises(NotFound):
            read()
    assert list(tmp_path.iterdir()) == []
    assert store.put("a/b", b"data", if_absent=True)
    assert open_store(tmp_path / "typo" / "store").get("a/b") == b"data"


@pytest.mark.parametrize("prefix", ["/", "a//", "../", "a/../b", "a\n", "a\\"])
def test_a_prefix_that_no_key_can_have_is_refused(prefix: str, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput):
        list(open_store(tmp_path).list(prefix))


@pytest.mark.parametrize(
    "url",
    ["", "file://folder", "file://", "file:///a?b", "http://host/x", "gs://bucket", "s3://", "s3://B_AD", "s3://ab",
     "s3://bucket/a/../b", "s3://bucket/a//b", "s3://bucket?x=1", "s3://user:pass@bucket"],
)  # fmt: skip
def test_a_url_that_is_no_store_is_refused(url: str) -> None:
    with pytest.raises(InvalidInput):
        open_store(url, s3=access())


def test_a_folders_url_opens_the_same_folder_whatever_its_name(tmp_path: Path) -> None:
    store = open_store(tmp_path / "100% ü #1")
    store.put("a", b"data")
    assert open_store(store.url).get("a") == b"data"
    assert (tmp_path / "100% ü #1" / "a").is_file()


@pytest.mark.parametrize("name", ["access_key", "secret_key"])
def test_a_missing_s3_setting_is_named_with_its_variable(name: str) -> None:
    with pytest.raises(InvalidInput, match=f"STABLEREP_S3__{name.upper()}") as caught:
        open_store("s3://bucket", s3=access(**{name: ""}))
    assert caught.value.field == f"s3.{name}"


@pytest.mark.parametrize("endpoint", ["127.0.0.1:9000", "ftp://host", "http://", "http://host/path"])
def test_an_endpoint_that_is_no_server_is_refused(endpoint: str) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_store("s3://bucket", s3=access(endpoint=endpoint))
    assert caught.value.field == "s3.endpoint"


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("ca_file", {"ca_file": "/no/such/file.pem"}),
        ("addressing", {"addressing": "virtual"}),  # there is no name before 127.0.0.1
        ("addressing", {"addressing": "virtual", "endpoint": "https://[::1]:9000"}),
    ],
)
def test_a_way_to_a_server_that_cannot_work_is_refused(field: str, changes: dict[str, str]) -> None:
    with pytest.raises(InvalidInput) as caught:
        open_store("s3://bucket", s3=access(**changes))
    assert caught.value.field == f"s3.{field}"


@pytest.mark.parametrize(
    ("changes", "url"),
    [
        ({"endpoint": "", "region": "eu-west-1"}, "https://bucket.s3.eu-west-1.amazonaws.com/a"),
        (
            {"endpoint": "", "region": "eu-west-1", "addressing": "path"},
            "https://s3.eu-west-1.amazonaws.com/bucket/a",
        ),
        ({"endpoint": "https://rgw:8443", "region": "r"}, "https://rgw:8443/bucket/a"),
        ({"endpoint": "https://rgw", "region": "r", "addressing": "virtual"}, "https://bucket.rgw/a"),
    ],
)
def test_a_bucket_is_in_the_path_or_in_the_host(changes: dict[str, str], url: str) -> None:
    client = connect(check_access(access(**changes))).client
    assert client.get_presigned_url("GET", "bucket", "a").partition("?")[0] == url


def test_a_machines_role_is_asked_for_on_aws_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    for name in ("ACCESS_KEY_ID", "ACCESS_KEY", "WEB_IDENTITY_TOKEN_FILE", "EC2_METADATA_DISABLED",
                 "CONTAINER_CREDENTIALS_FULL_URI", "CONTAINER_CREDENTIALS_RELATIVE_URI"):  # fmt: skip
        monkeypatch.delenv(f"AWS_{name}", raising=False)
    without_keys = {"access_key": "", "secret_key": ""}
    open_store("s3://bucket", s3=access(endpoint="", **without_keys))  # asks nobody yet
    with pytest.raises(InvalidInput, match="needs credentials"):
        open_store("s3://bucket", s3=access(endpoint="https://amazonaws.com.example.org", **without_keys))
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(InvalidInput, match="needs credentials"):
        open_store("s3://bucket", s3=access(endpoint="", **without_keys))


def test_a_secret_is_not_shown() -> None:
    store = open_store("s3://bucket", s3=access(secret_key="open sesame", session_token="open sesame"))
    assert "sesame" not in repr(store)
    assert "sesame" not in repr(vars(store))


def test_a_name_that_is_a_folder_cannot_become_an_object(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("a/b", b"data")
    for key in ("a", "a/b/c"):
        for if_absent in (False, True):
            with pytest.raises(StoreError):
                store.put(key, b"data", if_absent=if_absent)
    assert [info.key for info in store.list()] == ["a/b"]
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_what_a_killed_writer_leaves_is_no_object(tmp_path: Path) -> None:
    store = open_store(tmp_path)
    store.put("shards/000000.tar", b"whole")
    (tmp_path / "shards" / ".tmp-0123456789abcdef").write_bytes(b"hal")
    (tmp_path / ".tmp-folder").mkdir()
    (tmp_path / ".tmp-folder" / "x").write_bytes(b"")
    assert [info.key for info in store.list()] == ["shards/000000.tar"]


def test_the_names_of_the_objects_are_those_of_the_design() -> None:
    assert layout.dataset_key("shoes") == "datasets/shoes/dataset.json"
    assert layout.captions_key("shoes", 123) == "datasets/shoes/captions/000123.jsonl.zst"
    assert layout.shard_key("shoes", 123) == "datasets/shoes/shards/000123.tar"
    assert layout.index_key("shoes", 123) == "datasets/shoes/index/000123.json"
    assert layout.create_key("shoes") == "datasets/shoes/job/create.json"
    assert layout.planned_key("shoes") == "datasets/shoes/job/planned.json"
    assert layout.plan_key("shoes", 5) == "datasets/shoes/job/plan/000005.arrow"
    assert layout.dead_key("shoes", 5) == "datasets/shoes/job/dead/000005.json"
    assert layout.upload_part_key("u-1", 0) == "uploads/u-1/000000.part"
    assert layout.request_key("2024:a") == "requests/2024:a.json"
    assert layout.run_key("r1", "export/model.safetensors") == "runs/r1/export/model.safetensors"


@pytest.mark.parametrize(
    "make", [layout.captions_key, layout.plan_key, layout.shard_key, layout.index_key, layout.dead_key]
)
def test_a_shards_number_is_read_back_from_its_keys(make: Callable[[str, int], str]) -> None:
    assert [layout.shard_of(make("a.b", number)) for number in (0, 7, 999_999)] == [0, 7, 999_999]
    for number in (-1, 1_000_000):
        with pytest.raises(InvalidInput):
            make("a.b", number)


def test_events_are_listed_in_the_order_of_their_times() -> None:
    keys = [layout.event_key("d", time, kind) for time, kind in ((9, "pause"), (10, "cancel"), (10**18, "a"))]
    assert keys == sorted(keys)
    with pytest.raises(InvalidInput):
        layout.event_key("d", 1, "../x")


@pytest.mark.parametrize("name", ["", "Shoes", "a/b", "../a", "-a", ".a", "a" * 64, "a b", "a\n", "ü"])
def test_a_dataset_name_outside_the_rule_never_becomes_a_key(name: str) -> None:
    for make in (layout.dataset_key, layout.create_key, lambda name: layout.shard_key(name, 0)):
        with pytest.raises(InvalidInput) as caught:
            make(name)
        assert caught.value.field == "dataset"


@given(st.from_regex(DATASET_NAME, fullmatch=True))
def test_every_dataset_name_within_the_rule_gives_keys_that_stores_take(name: str) -> None:
    assert check_key(layout.shard_key(name, 0)) == f"datasets/{name}/shards/000000.tar"
