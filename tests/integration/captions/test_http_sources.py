"""Captions behind http(s): a real server on loopback that has ranges, breaks off, lies, drips, redirects."""

import random
import socket
import ssl
import time
import tracemalloc
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from stablerep.captions import read_captions
from stablerep.captions.remote import http as http_objects
from stablerep.captions.remote.access import Remote
from stablerep.captions.remote.http import HttpObjects
from stablerep.captions.remote.urls import AllowedUrls
from stablerep.errors import InvalidInput, NotFound, TornObject, Unavailable
from stablerep.jobs.job import CaptionSource
from stablerep.jobs.planning import sources
from stablerep.storage import open_store
from stablerep.storage.interface import Store
from tests.certificates import Authority
from tests.web_files import Answering, WebFiles, identify_source, open_job_source, web_files

TEXT = "".join(f"caption {number}, ü\n" for number in range(100_000)).encode()
CAPTIONS = [(number, f"caption {number}, ü") for number in range(100_000)]


@pytest.fixture
def web() -> Iterator[WebFiles]:
    with web_files() as server:
        server.add("/captions/a.txt", TEXT)
        yield server


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(tmp_path)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short limits in place of the product's own."""
    monkeypatch.setattr(http_objects, "SILENT_SECONDS", 0.3)
    monkeypatch.setattr(http_objects, "PIECE_SECONDS", 0.8)
    monkeypatch.setattr(http_objects, "TRIES", 2)
    monkeypatch.setattr(http_objects, "MAX_PIECES", 3)
    monkeypatch.setattr(http_objects, "PAUSE_SECONDS", 0.02)


def remote(web: WebFiles, *more: str, private_networks: bool = True, size_limit: int = 64 << 30) -> Remote:
    return Remote(AllowedUrls([f"{web.url}/captions", *more]), private_networks, size_limit=size_limit)


def read(store: Store, web: WebFiles, path: str = "/captions/a.txt", **source: str) -> list[tuple[int, str]]:
    found = open_job_source(store, CaptionSource(uri=web.url + path, **source), remote(web))
    return list(read_captions(found, format=source.get("format")))


def test_a_file_is_read_by_ranges_over_one_connection(store: Store, web: WebFiles) -> None:
    assert read(store, web) == CAPTIONS
    whole = [text for _, text in web.requests]
    assert whole[0] == "bytes=0-0"
    assert 3 <= len(whole) <= 5
    assert web.sent <= len(TEXT) + 5


def test_little_of_a_large_file_is_in_memory(store: Store, web: WebFiles) -> None:
    web.add("/captions/large.txt", b"a caption of a large file\n" * 1_500_000)
    tracemalloc.start()
    try:
        before = tracemalloc.get_traced_memory()[0]
        found = open_job_source(store, CaptionSource(uri=f"{web.url}/captions/large.txt"), remote(web))
        with found.open() as file:
            while file.read(1 << 16):
                pass
        peak = tracemalloc.get_traced_memory()[1] - before
    finally:
        tracemalloc.stop()
    assert found.size > 37 << 20
    assert peak < 8 << 20


def test_parquet_is_read_from_the_ranges_that_it_needs(store: Store, web: WebFiles, tmp_path: Path) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    captions = [f"caption {number}" for number in range(1000)]
    pictures = [random.Random(number).randbytes(8000) for number in range(1000)]
    pq.write_table(pa.table({"TEXT": captions, "picture": pictures}), tmp_path / "a.parquet")
    data = (tmp_path / "a.parquet").read_bytes()
    web.add("/captions/a.parquet", data)
    assert [text for _, text in read(store, web, "/captions/a.parquet")] == captions
    assert web.sent < len(data) / 2


def test_identity_is_size_and_etag_and_changes_with_the_file(store: Store, web: WebFiles) -> None:
    source = CaptionSource(uri=f"{web.url}/captions/a.txt")
    first = identify_source(store, source, remote(web))
    assert (first.size, first.etag) == (len(TEXT), web.etag("/captions/a.txt").strip('"'))
    assert identify_source(store, source, remote(web)) == first
    web.files["/captions/a.txt"] = TEXT[:-1] + b"x"
    assert identify_source(store, source, remote(web)) != first


def test_without_an_etag_the_time_of_the_last_change_tells(store: Store, web: WebFiles) -> None:
    source = CaptionSource(uri=f"{web.url}/captions/a.txt")
    web.faults["/captions/a.txt"] = lambda answer: answer.range_answer(etag="", modified="Mon, 01 Jan 2024")
    assert identify_source(store, source, remote(web)).etag == "Mon, 01 Jan 2024"
    web.faults["/captions/a.txt"] = lambda answer: answer.range_answer(etag="")
    with pytest.raises(InvalidInput, match="neither ETag nor Last-Modified"):
        identify_source(store, source, remote(web))


def test_a_connection_that_breaks_off_is_gone_on_with_from_there(store: Store, web: WebFiles) -> None:
    breaks = iter([70_000, 1, 0, 0, 300_000])

    def fault(answer: Answering) -> None:
        answer.range_answer(cut=next(breaks, None) if answer.asked()[1] > 1 else None)

    web.faults["/captions/a.txt"] = fault
    assert read(store, web) == CAPTIONS
    assert next(breaks, None) is None
    assert web.sent <= len(TEXT) + 5  # nothing was sent twice


def test_a_server_that_always_breaks_off_is_given_up(store: Store, web: WebFiles, hasty: None) -> None:
    web.faults["/captions/a.txt"] = lambda answer: answer.range_answer(
        cut=0 if answer.asked()[1] > 1 else None
    )
    with pytest.raises(Unavailable, match="broke off"):
        read(store, web)
    web.faults["/captions/a.txt"] = lambda answer: answer.range_answer(
        cut=5 if answer.asked()[1] > 1 else None
    )
    with pytest.raises(Unavailable, match="again and again"):
        read(store, web)


@pytest.mark.parametrize(
    ("lie", "error", "text"),
    [
        ({"total": len(TEXT) + 7}, TornObject, "changed while it was read"),
        ({"etag": '"other"'}, TornObject, "changed while it was read"),
        ({"first": 1}, TornObject, "other bytes"),
        ({"total": 10**30}, InvalidInput, "not served by ranges"),
        ({"claimed": 1 << 60}, Unavailable, "cannot be read|broke"),
    ],
    ids=str,
)
def test_a_server_that_lies_while_it_is_read_is_found_out(
    store: Store, web: WebFiles, hasty: None, lie: dict[str, object], error: type[Exception], text: str
) -> None:
    later = {"lie": False}

    def fault(answer: Answering) -> None:
        answer.range_answer(**(lie if later["lie"] else {}))  # type: ignore[arg-type]

    web.faults["/captions/a.txt"] = fault
    found = open_job_source(store, CaptionSource(uri=f"{web.url}/captions/a.txt"), remote(web))
    later["lie"] = True
    if "claimed" in lie:  # more is announced than comes: what came is taken, and the rest asked for anew
        with found.open() as file:
            assert file.read() == TEXT
        return
    with pytest.raises(error, match=text):
        list(read_captions(found))


def test_a_file_larger_than_it_says_is_read_as_far_as_it_says_and_then_found_out(
    store: Store, web: WebFiles
) -> None:
    source = CaptionSource(uri=f"{web.url}/captions/a.txt")
    web.faults["/captions/a.txt"] = lambda answer: answer.range_answer(total=1000)
    identity = identify_source(store, source, remote(web))
    assert identity.size == 1000
    with open_job_source(store, source, remote(web)).open() as file:
        assert file.read() == TEXT[:1000]
    web.faults["/captions/a.txt"] = lambda answer: answer.range_answer(total=len(TEXT) + 1)
    with (
        pytest.raises(TornObject, match="ends before"),
        open_job_source(store, source, remote(web)).open() as file,
    ):
        file.read()


def test_a_file_over_the_size_limit_is_refused(store: Store, web: WebFiles) -> None:
    with pytest.raises(InvalidInput, match="at most 1000"):
        identify_source(store, CaptionSource(uri=f"{web.url}/captions/a.txt"), remote(web, size_limit=1000))


def test_a_server_without_ranges_is_refused_before_its_file_is_fetched(store: Store, web: WebFiles) -> None:
    def whole(answer: Answering) -> None:
        answer.send_response(200)
        answer.send_header("Content-Length", str(len(TEXT)))
        answer.end_headers()
        answer.wfile.write(TEXT)

    web.faults["/captions/a.txt"] = whole
    with pytest.raises(InvalidInput, match=r"not served by ranges.*upload"):
        identify_source(store, CaptionSource(uri=f"{web.url}/captions/a.txt"), remote(web))


@pytest.mark.parametrize(
    ("status", "error"),
    [(404, NotFound), (410, NotFound), (401, InvalidInput), (403, InvalidInput), (500, Unavailable),
     (503, Unavailable), (429, Unavailable), (304, InvalidInput), (204, InvalidInput)],
)  # fmt: skip
def test_each_status_has_its_error(
    store: Store, web: WebFiles, hasty: None, status: int, error: type[Exception]
) -> None:
    def answer(request: Answering) -> None:
        request.send_response(status)
        request.send_header("Content-Length", "0")
        request.end_headers()

    web.faults["/captions/a.txt"] = answer
    with pytest.raises(error):
        identify_source(store, CaptionSource(uri=f"{web.url}/captions/a.txt?signature=secret"), remote(web))


def test_a_server_that_is_busy_for_a_moment_is_asked_again(store: Store, web: WebFiles) -> None:
    left = [503, 500]

    def fault(answer: Answering) -> None:
        answer.send_error(left.pop()) if left else answer.range_answer()

    web.faults["/captions/a.txt"] = fault
    assert read(store, web) == CAPTIONS


def test_a_silent_server_and_one_that_drips_are_given_up(store: Store, web: WebFiles, hasty: None) -> None:
    source = CaptionSource(uri=f"{web.url}/captions/a.txt")
    web.faults["/captions/a.txt"] = lambda answer: answer.drip(3)
    began = time.monotonic()
    with pytest.raises(Unavailable):
        identify_source(store, source, remote(web))

    def slowly(answer: Answering) -> None:
        answer.send_response(206)
        for _ in range(30):  # within the limit of silence each time
            answer.wfile.write(b"x")
            answer.wfile.flush()
            time.sleep(0.1)

    web.faults["/captions/a.txt"] = slowly
    with pytest.raises(Unavailable):
        identify_source(store, source, remote(web))
    assert time.monotonic() - began < 5


def test_a_body_that_drips_is_given_up_though_bytes_come(store: Store, web: WebFiles, hasty: None) -> None:
    def slowly(answer: Answering) -> None:
        if answer.asked()[1] == 1:
            return answer.range_answer()
        answer.range_answer(cut=1)
        for _ in range(30):
            answer.wfile.write(b"x")
            answer.wfile.flush()
            time.sleep(0.1)
        return None

    web.faults["/captions/a.txt"] = slowly
    found = open_job_source(store, CaptionSource(uri=f"{web.url}/captions/a.txt"), remote(web))
    began = time.monotonic()
    with found.open() as file, pytest.raises(Unavailable):
        file.read(1)
    assert time.monotonic() - began < 10


def test_a_redirect_within_what_is_allowed_is_followed(store: Store, web: WebFiles) -> None:
    web.faults["/captions/moved.txt"] = lambda answer: answer.redirect("a.txt")
    web.faults["/captions/twice.txt"] = lambda answer: answer.redirect(f"{web.url}/captions/moved.txt")
    assert read(store, web, "/captions/twice.txt") == CAPTIONS


@pytest.mark.parametrize(
    "target",
    ["http://169.254.169.254/latest/meta-data/iam", "http://localhost:{port}/captions/a.txt", "/secret",
     "../secret", "http://127.0.0.1:1/captions/a.txt", "http://[::1]:{port}/captions/a.txt", "file:///etc/passwd",
     "//evil/captions", "http://2130706433:{port}/captions/a.txt", "http://a@127.0.0.1:{port}/captions/a.txt",
     "ftp://127.0.0.1/captions", "http://127.0.0.1:{port}/captions/%2e%2e/secret", "s3://bucket/captions", "",
     "http://\u0661.1.1.1/"],
)  # fmt: skip
def test_a_redirect_to_anywhere_else_is_not_followed(store: Store, web: WebFiles, target: str) -> None:
    web.add("/secret", b"secret\n")
    location = target.format(port=web.port)
    web.faults["/captions/a.txt"] = lambda answer: answer.redirect(location.encode().decode("latin-1"))
    with pytest.raises(InvalidInput):
        identify_source(store, CaptionSource(uri=f"{web.url}/captions/a.txt"), remote(web, "s3://bucket"))
    assert {path for path, _ in web.requests} == {"/captions/a.txt"}


def test_a_redirect_that_comes_while_a_file_is_read_is_checked_too(store: Store, web: WebFiles) -> None:
    web.add("/secret", TEXT)
    found = open_job_source(store, CaptionSource(uri=f"{web.url}/captions/a.txt"), remote(web))
    web.faults["/captions/a.txt"] = lambda answer: answer.redirect("/secret")
    with pytest.raises(InvalidInput):
        list(read_captions(found))
    assert "/secret" not in {path for path, _ in web.requests}


def test_redirects_in_a_circle_end(store: Store, web: WebFiles) -> None:
    web.faults["/captions/a.txt"] = lambda answer: answer.redirect("a.txt")
    with pytest.raises(InvalidInput, match="redirected more than"):
        identify_source(store, CaptionSource(uri=f"{web.url}/captions/a.txt"), remote(web))
    assert len(web.requests) < 10


def test_loopback_needs_the_setting_though_the_url_is_allowed(store: Store, web: WebFiles) -> None:
    with pytest.raises(InvalidInput, match="private"):
        identify_source(
            store,
            CaptionSource(uri=f"{web.url}/captions/a.txt"),
            remote(web, private_networks=False),
        )
    assert web.requests == []


def test_a_name_is_resolved_once_and_the_address_that_was_checked_is_the_one_connected_to(
    store: Store, web: WebFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A name server that answers the first question with a public and the next with a private address."""
    answers = iter(["93.184.215.14", "127.0.0.1", "127.0.0.1"])
    asked, connected = [], []
    real_connect = socket.socket.connect

    def rebinding(host: str, port: int, *args: object, **options: object) -> list[tuple[object, ...]]:
        asked.append(host)
        return [(socket.AF_INET, socket.SOCK_STREAM, 6, "", (next(answers), port))]

    def connect(self: socket.socket, address: tuple[str, int]) -> None:
        connected.append(address[0])
        if address[0] == "127.0.0.1":
            real_connect(self, address)
        raise ConnectionRefusedError("nobody there")

    monkeypatch.setattr(socket, "getaddrinfo", rebinding)
    monkeypatch.setattr(socket.socket, "connect", connect)
    url = f"http://rebinding.example:{web.port}/captions/a.txt"
    allowed = Remote(AllowedUrls([f"http://rebinding.example:{web.port}"]))
    with pytest.raises(InvalidInput, match="private"):
        identify_source(store, CaptionSource(uri=url), allowed)
    assert asked == ["rebinding.example"] * 2
    assert connected == ["93.184.215.14"]  # the second answer was refused, not connected to
    assert web.requests == []


def test_one_private_address_among_public_ones_is_enough_to_refuse(
    store: Store, web: WebFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [
        (socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, web.port))
        for address in ("93.184.215.14", "127.0.0.1")
    ]
    monkeypatch.setattr(socket, "getaddrinfo", lambda *args, **options: found)
    with pytest.raises(InvalidInput, match="private"):
        identify_source(
            store,
            CaptionSource(uri="http://mixed.example/a.txt"),
            Remote(AllowedUrls(["http://mixed.example"])),
        )


def test_a_proxy_of_the_environment_is_not_asked(
    store: Store, web: WebFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:9")
    assert len(read(store, web)) == len(CAPTIONS)


def test_tars_by_a_range_are_one_source(store: Store, web: WebFiles) -> None:
    for number in range(3):
        web.add(f"/captions/{number:02d}.txt", f"caption {number}\n".encode())
    source = CaptionSource(uri=f"{web.url}/captions/{{00..02}}.txt")
    found = open_job_source(store, source, remote(web))
    assert [member.name for member in found.members] == ["00.txt", "01.txt", "02.txt"]
    assert [caption.text for caption in read_captions(found)] == [f"caption {n}" for n in range(3)]
    before = identify_source(store, source, remote(web))
    web.add("/captions/01.txt", b"caption X\n")
    assert identify_source(store, source, remote(web)).etag != before.etag
    with pytest.MonkeyPatch.context() as hasty:
        hasty.setattr(sources, "WEB_SECONDS", -1.0)
        with pytest.raises(Unavailable, match="3 files were not looked up"):
            identify_source(store, source, remote(web))
    del web.files["/captions/01.txt"]
    with pytest.raises(NotFound, match=r"01\.txt"):
        identify_source(store, source, remote(web))


def test_a_server_whose_certificate_nobody_vouches_for_is_refused(store: Store, tmp_path: Path) -> None:
    authority = Authority(tmp_path, "authority")
    identity = authority.issue("server", hosts=("localhost",))
    with web_files() as web:
        web.add("/captions/a.txt", TEXT)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(identity.cert_file, identity.key_file)
        web.wrap(context)
        url = f"https://localhost:{web.port}/captions/a.txt"
        allowed = Remote(AllowedUrls([f"https://localhost:{web.port}"]), private_networks=True)
        with pytest.raises(InvalidInput, match="certificate"):
            identify_source(store, CaptionSource(uri=url), allowed)
        with pytest.MonkeyPatch.context() as environment:
            environment.setenv("SSL_CERT_FILE", str(authority.ca_file))
            found = open_job_source(store, CaptionSource(uri=url), allowed)
            assert list(read_captions(found)) == CAPTIONS


def test_stat_says_what_is_there_and_connections_end(web: WebFiles) -> None:
    with closing(remote(web).open_web()) as objects:
        assert isinstance(objects, HttpObjects)
        info = objects.stat(f"{web.url}/captions/a.txt")
        assert info is not None
        assert info.size == len(TEXT)
        assert objects.stat(f"{web.url}/captions/none.txt") is None
        assert objects.get_range(f"{web.url}/captions/a.txt", 10, 5) == TEXT[10:15]


def test_an_empty_file_has_no_caption(store: Store, web: WebFiles) -> None:
    web.add("/captions/empty.txt", b"")
    with pytest.raises(InvalidInput, match="no usable caption"):
        read(store, web, "/captions/empty.txt")
