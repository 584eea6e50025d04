"""Captions by URL through a real gateway: allowed, refused, other buckets, shards, and what clients send."""

import asyncio
import io
import json
import sys
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from stablerep.captions.remote.access import Remote
from stablerep.captions.remote.hub import FsspecObjects, open_hub
from stablerep.captions.remote.urls import AllowedUrls
from stablerep.client import AsyncClient, Client, JobState
from stablerep.client.captions import choose_captions
from stablerep.errors import AlreadyExists, InvalidInput, NotFound, StableRepError, TornObject, Unavailable
from stablerep.jobs.job import CaptionSource
from stablerep.storage import open_store
from stablerep.testing.gateway import GatewayProcess
from stablerep.testing.servers import MinioServer
from tests.gateways import planned, planned_captions
from tests.web_files import Answering, WebFiles, identify_source, open_job_source, web_files

CAPTIONS = [(number, f"caption {number}") for number in range(25)]
TEXT = "".join(f"{text}\n" for _, text in CAPTIONS).encode()
SHARDS: dict[str, Any] = {"preset": "tiny", "captions_per_shard": 10}


@pytest.fixture
def web() -> Iterator[WebFiles]:
    with web_files() as server:
        server.add("/captions/a.txt", TEXT)
        yield server


@pytest.fixture
def gateway(tmp_path: Path, redis_url: str, web: WebFiles) -> Iterator[GatewayProcess]:
    """Lets captions come from this web server alone."""
    settings = {
        "STABLEREP_GATEWAY__SOURCE_URLS": f"{web.url}/captions,s3://allowed-bucket/captions",
        "STABLEREP_GATEWAY__SOURCE_PRIVATE_NETWORKS": "true",
    }
    with GatewayProcess(
        tmp_path / "gateway", (tmp_path / "store").as_uri(), redis_url, **settings
    ) as process:
        yield process


def shard_tar(shard: int, count: int = 5) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as tar:
        for number in range(count):
            for kind, data in (("jpg", b"j" * 5000), ("txt", b"caption %d" % (shard * count + number))):
                header = tarfile.TarInfo(f"{shard:05d}{number:04d}.{kind}")
                header.size = len(data)
                tar.addfile(header, io.BytesIO(data))
    return buffer.getvalue()


def flat(tmp_path: Path, dataset: str) -> list[tuple[int, str]]:
    shards = planned_captions((tmp_path / "store").as_uri(), dataset)
    return [caption for shard in shards for caption in shard]


def test_an_allowed_url_is_planned_and_another_refused(
    gateway: GatewayProcess, tmp_path: Path, web: WebFiles
) -> None:
    web.add("/secret.txt", b"secret\n")
    with Client(gateway.address) as client:
        job = client.create_job("by-url", f"{web.url}/captions/a.txt", **SHARDS)
        assert planned(client, job.name).counts.shards == 3
        assert flat(tmp_path, "by-url") == CAPTIONS
        again = client.create_job("by-url", f"HTTP{web.url[4:]}/captions/%61.txt", **SHARDS)
        assert again.name == job.name
        before = list(web.requests)
        for url in (
            f"{web.url}/secret.txt",
            f"{web.url}/captions/../secret.txt",
            f"{web.url}/captions/%2e%2e/secret.txt",
            f"http://localhost:{web.port}/captions/a.txt",
            "http://169.254.169.254/latest/meta-data/a.txt",
            "https://data.example/a.txt",
            "s3://other-bucket/captions/a.txt",
            "file:///etc/passwd",
            "ftp://127.0.0.1/a.txt",
        ):
            with pytest.raises(InvalidInput) as caught:
                client.create_job("refused", url, **SHARDS)
            assert caught.value.field == "source.uri"
        with pytest.raises(InvalidInput, match="there is no") as caught:
            client.create_job("refused", f"{web.url}/captions/none.txt", **SHARDS)
        assert caught.value.field == "source.uri"
        web.faults["/captions/b.txt"] = lambda answer: answer.redirect("/secret.txt")
        with pytest.raises(InvalidInput, match=r"gateway\.source_urls"):
            client.create_job("refused", f"{web.url}/captions/b.txt", **SHARDS)
        assert [job.dataset for job in client.list_jobs()] == ["by-url"]
        assert {path for path, _ in web.requests[len(before) :]} == {"/captions/none.txt", "/captions/b.txt"}
    source = json.loads((tmp_path / "store" / "datasets" / "by-url" / "dataset.json").read_text())["source"]
    assert source["uri"] == f"{web.url}/captions/a.txt"
    assert source["size"] == len(TEXT)
    assert not (tmp_path / "store" / "datasets" / "refused").exists()


def test_a_file_that_changes_while_it_is_planned_fails_the_job(
    gateway: GatewayProcess, web: WebFiles
) -> None:
    def fault(answer: Answering) -> None:
        _, length = answer.asked()
        if length > 1:
            web.etags["/captions/a.txt"] = '"another"'
        answer.range_answer()

    web.faults["/captions/a.txt"] = fault
    with Client(gateway.address) as client:
        client.create_job("changed", f"{web.url}/captions/a.txt", **SHARDS)
        job = planned(client, "changed")
        assert job.state is JobState.FAILED
        assert "has changed" in job.error
        with pytest.raises(AlreadyExists):
            client.create_job("changed", f"{web.url}/captions/a.txt", **SHARDS)


def test_a_server_that_is_away_while_planning_costs_time_only(
    gateway: GatewayProcess, tmp_path: Path, web: WebFiles
) -> None:
    away = [True]

    def fault(answer: Answering) -> None:
        if answer.asked()[1] > 1 and away[0]:
            answer.send_error(503)
        else:
            answer.range_answer()

    web.faults["/captions/a.txt"] = fault
    with Client(gateway.address) as client:
        client.create_job("late", f"{web.url}/captions/a.txt", **SHARDS)
        while sum(asked != "bytes=0-0" for _, asked in web.requests) < 3:
            assert client.get_job("late").state is JobState.PLANNING
        away[0] = False
        assert planned(client, "late").counts.shards == 3
    assert flat(tmp_path, "late") == CAPTIONS


def test_shards_by_url_or_in_the_store_or_on_the_client_give_the_same_ids(
    gateway: GatewayProcess, tmp_path: Path, web: WebFiles
) -> None:
    (tmp_path / "local").mkdir()
    store = open_store((tmp_path / "store").as_uri())
    for shard in range(5):
        data = shard_tar(shard)
        web.add(f"/captions/{shard:05d}.tar", data)
        store.put(f"laion/{shard:05d}.tar", data)
        (tmp_path / "local" / f"{shard:05d}.tar").write_bytes(data)
    sources = {
        "web": f"{web.url}/captions/{{00000..00004}}.tar",
        "star": "store:laion/*.tar",
        "range": "store:laion/{00000..00004}.tar",
        "local": str(tmp_path / "local" / "{00000..00004}.tar"),
        "local-star": str(tmp_path / "local" / "*.tar"),
    }
    with Client(gateway.address) as client:
        for name, source in sources.items():
            job = client.create_job(name, source, **SHARDS)
            assert planned(client, job.name).state is JobState.RUNNING, name
            assert flat(tmp_path, name) == CAPTIONS, name
        uploads = sum(info.size for info in store.list("uploads/"))
        assert uploads < len(shard_tar(0)) / 2  # no image was sent
        assert client.get_job("local").caption_report["captions"] == 25
        for bad in ("store:laion/{00000..00005}.tar", "store:none/*.tar", f"{web.url}/captions/*.tar"):
            with pytest.raises(InvalidInput) as caught:
                client.create_job("bad", bad, **SHARDS)
            assert caught.value.field == "source.uri"
        with pytest.raises(InvalidInput) as caught:
            client.create_job("bad", "store:laion/{00000..00004}.bin", **SHARDS | {"format": ""})
        assert caught.value.field == "source.format"


def test_what_a_client_takes_out_of_shards_is_counted_as_the_gateway_would(
    gateway: GatewayProcess, tmp_path: Path
) -> None:
    members = [("1.txt", b"one"), ("2.txt", b""), ("3.txt", b"\xff"), ("4.txt", b"x" * 2000), ("5.jpg", b"j"),
               ("6.json", b"{"), ("7.json", b'{"caption": "seven"}')]  # fmt: skip
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for name, data in members:
            header = tarfile.TarInfo(name)
            header.size = len(data)
            tar.addfile(header, io.BytesIO(data))
    open_store((tmp_path / "store").as_uri()).put("a.tar", (tmp_path / "a.tar").read_bytes())
    with Client(gateway.address) as client:
        jobs = []
        for name, source in (("here", str(tmp_path / "a.tar")), ("there", "store:a.tar")):
            client.create_job(name, source, **SHARDS)
            jobs.append(planned(client, name))
        assert jobs[0].caption_report == jobs[1].caption_report
        assert flat(tmp_path, "here") == flat(tmp_path, "there") == [(0, "one"), (6, "seven")]


def test_a_damaged_shard_is_named_by_client_and_gateway(gateway: GatewayProcess, tmp_path: Path) -> None:
    (tmp_path / "00001.tar").write_bytes(shard_tar(1)[:9000])
    (tmp_path / "00000.tar").write_bytes(shard_tar(0))
    store = open_store((tmp_path / "store").as_uri())
    with Client(gateway.address) as client:
        with pytest.raises(InvalidInput, match=r"00001\.tar: the tar is damaged"):
            client.create_job("damaged", tmp_path / "{00000..00001}.tar", **SHARDS)
        for shard in range(2):
            store.put(f"s/{shard:05d}.tar", (tmp_path / f"{shard:05d}.tar").read_bytes())
        client.create_job("damaged", "store:s/*.tar", **SHARDS)
        job = planned(client, "damaged")
        assert job.state is JobState.FAILED
        assert "00001.tar: the tar is damaged" in job.error


def test_a_client_reads_and_uploads_a_url_when_asked(
    gateway: GatewayProcess, tmp_path: Path, web: WebFiles
) -> None:
    web.add("/elsewhere/a.txt", TEXT)
    web.add("/elsewhere/0.tar", shard_tar(0))
    files = {"/elsewhere/a.txt": TEXT, "/elsewhere/0.tar": shard_tar(0)}

    def whole(answer: Answering) -> None:
        if "Range" in answer.headers:
            return answer.range_answer()
        data = files[answer.bare_path]
        answer.send_response(200)
        answer.send_header("Content-Length", str(len(data)))
        answer.send_header("Accept-Ranges", "bytes")
        answer.end_headers()
        answer.wfile.write(data)
        return None

    for path in files:
        web.faults[path] = whole
    with Client(gateway.address) as client:
        with pytest.raises(InvalidInput):
            client.create_job("uploaded", f"{web.url}/elsewhere/a.txt", **SHARDS)
        client.create_job("uploaded", f"{web.url}/elsewhere/a.txt?x=1", upload=True, **SHARDS)
        assert "upload_id" in planned(client, "uploaded").source
        client.create_job("uploaded-tar", f"{web.url}/elsewhere/0.tar", upload=True, **SHARDS)
        planned(client, "uploaded-tar")
        for url in (f"{web.url}/none.txt", "nosuch://a/b.txt", "http://127.0.0.1:9/a.txt"):
            with pytest.raises(InvalidInput) as caught:
                client.create_job("bad", url, upload=True, **SHARDS)
            assert caught.value.field == "captions"
    assert flat(tmp_path, "uploaded") == CAPTIONS
    assert flat(tmp_path, "uploaded-tar") == CAPTIONS[:5]


def test_the_asyncio_client_sends_shards_too(gateway: GatewayProcess, tmp_path: Path) -> None:
    (tmp_path / "0.tar").write_bytes(shard_tar(0))

    async def submit() -> None:
        async with AsyncClient(gateway.address) as client:
            await client.create_job("awaited", tmp_path / "0.tar", **SHARDS)

    asyncio.run(submit())
    with Client(gateway.address) as client:
        planned(client, "awaited")
    assert flat(tmp_path, "awaited") == CAPTIONS[:5]


def test_a_setting_that_is_no_url_keeps_the_gateway_from_serving(tmp_path: Path, redis_url: str) -> None:
    process = GatewayProcess(
        tmp_path / "g", (tmp_path / "store").as_uri(), redis_url, STABLEREP_GATEWAY__SOURCE_URLS="example.com"
    )
    with pytest.raises(RuntimeError, match=r"gateway\.source_urls"):
        process.start()


def test_another_bucket_is_read_with_the_store_s_own_credentials(
    s3_url: str, minio_server: MinioServer, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = f"{s3_url.split('/')[2]}-other"
    bucket = open_store(f"s3://{other}")
    bucket.put("captions/a.txt", TEXT)
    bucket.put("private/a.txt", b"secret\n")
    for shard in range(5):
        bucket.put(f"captions/{shard:05d}.tar", shard_tar(shard))
    settings = {"STABLEREP_GATEWAY__SOURCE_URLS": f"s3://{other}/captions"}
    with (
        GatewayProcess(tmp_path, s3_url, redis_url, **settings) as process,
        Client(process.address) as client,
    ):
        for name, url in (
            ("file", f"s3://{other}/captions/a.txt"),
            ("star", f"s3://{other}/captions/*.tar"),
            ("range", f"s3://{other}/captions/{{00000..00004}}.tar"),
        ):
            client.create_job(name, url, **SHARDS)
            planned(client, name)
            shards = planned_captions(s3_url, name)
            assert [caption for shard in shards for caption in shard] == CAPTIONS
        for url in (
            f"s3://{other}/private/a.txt",
            f"s3://{other}/captions/../private/a.txt",
            f"s3://{other}/capt*",
            f"s3://{other}/*/a.txt",
            f"s3://{other}/captions/none.txt",
            f"s3://{other}-{{0..1}}/captions/a.tar",
            "s3://none-such-bucket/captions/a.txt",
        ):
            with pytest.raises(InvalidInput) as caught:
                client.create_job("refused", url, **SHARDS)
            assert caught.value.field in ("source.uri", "source.format")
        monkeypatch.setenv("AWS_ENDPOINT_URL", minio_server.endpoint)  # for s3fs, the client's own reader
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", minio_server.access_key)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", minio_server.secret_key)
        client.create_job("uploaded", f"s3://{other}/captions/*.tar", upload=True, **SHARDS)
        assert planned(client, "uploaded").caption_report["captions"] == 25
        with pytest.raises(InvalidInput, match="cannot be read"):
            client.create_job("bad", f"s3://{other}/none.txt", upload=True, **SHARDS)


def test_a_file_in_another_bucket_that_is_replaced_is_known(s3_url: str) -> None:
    other = f"{s3_url.split('/')[2]}-other"
    bucket, store = open_store(f"s3://{other}"), open_store(s3_url)
    bucket.put("a.txt", TEXT)
    remote = Remote(AllowedUrls([f"s3://{other}"]))
    source = CaptionSource(uri=f"s3://{other}/a.txt")
    before = identify_source(store, source, remote)
    assert before.size == len(TEXT)
    bucket.put("a.txt", TEXT[:-1] + b"!")
    assert identify_source(store, source, remote) != before
    with pytest.raises(InvalidInput, match="at most 10 are read"):
        identify_source(store, source, Remote(AllowedUrls([f"s3://{other}"]), size_limit=10))
    bucket.delete("a.txt")
    with pytest.raises(NotFound):
        open_job_source(store, source, remote)


def test_the_hub_s_adapter_reads_what_fsspec_holds_and_says_when_it_cannot() -> None:
    """Not the hub itself, which is out of reach: a file system in memory stands behind the adapter."""
    files = fsspec.filesystem("memory")
    files.pipe("/owner/name/b.txt", TEXT)
    files.pipe("/owner/name/a.txt", b"a\n")
    files.pipe("/owner/name/sub/c.txt", b"c\n")
    objects = FsspecObjects(files, "hf://")
    info = objects.stat("hf:///owner/name/b.txt")
    assert info is not None
    assert (info.key, info.size) == ("hf:///owner/name/b.txt", len(TEXT))
    assert objects.stat("hf:///owner/name/none.txt") is None
    assert objects.get_range("hf:///owner/name/b.txt", 8, 5) == TEXT[8:13]
    assert [found.key for found in objects.list("hf:///owner/name/")] == [
        "hf:///owner/name/a.txt",
        "hf:///owner/name/b.txt",
    ]
    assert list(objects.list("hf:///none/")) == []
    with pytest.raises(TornObject):
        objects.get_range("hf:///owner/name/a.txt", 0, 5)
    with pytest.raises(Unavailable):  # HF_HUB_OFFLINE is set in tests
        open_hub().stat("hf://datasets/owner/name/a.txt")


def test_what_needs_more_packages_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "huggingface_hub", None)
    with pytest.raises(InvalidInput, match=r"pip install 'stablerep\[sources\]'"):
        open_hub()
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with (
        pytest.raises(InvalidInput, match=r"pip install 'stablerep\[sources\]'"),
        choose_captions("https://data.example/a.txt", upload=True),
    ):
        pass


def test_a_file_url_is_read_by_a_client_only_when_it_uploads(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(TEXT)
    with choose_captions((tmp_path / "a.txt").as_uri(), upload=True) as chosen:
        assert chosen.path is not None
        assert chosen.path.read_bytes() == TEXT
        assert chosen.path.name == "a.txt"
    with choose_captions((tmp_path / "a.txt").as_uri()) as chosen:
        assert (chosen.path, chosen.uri) == (None, (tmp_path / "a.txt").as_uri())
    with pytest.raises(StableRepError), choose_captions(tmp_path / "none.tar"):
        pass
