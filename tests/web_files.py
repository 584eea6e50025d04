"""A real HTTP server of caption files on loopback that also misbehaves as real servers do."""

import hashlib
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from stablerep.captions import Source
from stablerep.captions.remote.access import Remote
from stablerep.jobs.job import CaptionSource
from stablerep.jobs.planning.sources import SourceIdentity, look_up
from stablerep.storage import Store


class WebFiles:
    """Files by path, and what was asked for; `faults[path]` answers in place of the file."""

    def __init__(self) -> None:
        self.files: dict[str, bytes] = {}
        self.etags: dict[str, str] = {}
        self.faults: dict[str, Callable[[Answering], None]] = {}
        self.requests: list[tuple[str, str]] = []  # path and Range
        self.sent = 0
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    @property
    def url(self) -> str:
        """http://host:port, without a slash at its end."""
        return f"http://127.0.0.1:{self.port}"

    def add(self, path: str, data: bytes) -> str:
        """Serves a file; returns its URL."""
        self.files[path] = data
        return self.url + path

    def etag(self, path: str) -> str:
        return self.etags.get(path, f'"{hashlib.sha256(self.files[path]).hexdigest()[:20]}"')

    def wrap(self, context: ssl.SSLContext) -> None:
        """Speaks TLS from now on."""
        self._server.socket = context.wrap_socket(self._server.socket, server_side=True)

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Nothing: clients hang up on what misbehaves."""


@contextmanager
def web_files() -> Iterator[WebFiles]:
    server = WebFiles()
    try:
        yield server
    finally:
        server.stop()


class Answering(BaseHTTPRequestHandler):
    """One request; faults use `range_answer` and what `BaseHTTPRequestHandler` has."""

    protocol_version = "HTTP/1.1"
    timeout = 30
    disable_nagle_algorithm = True
    web: WebFiles

    @property
    def bare_path(self) -> str:
        return self.path.partition("?")[0]

    def do_GET(self) -> None:
        self.web.requests.append((self.path, self.headers.get("Range", "")))
        fault = self.web.faults.get(self.bare_path)
        if fault is not None:
            fault(self)
        elif self.bare_path in self.web.files:
            self.range_answer()
        else:
            self.send_error(404)

    def asked(self) -> tuple[int, int]:
        """First byte and length of the range asked for, within the file."""
        found = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers["Range"])
        assert found is not None
        first, last = int(found[1]), int(found[2])
        return first, max(0, min(last + 1, len(self.web.files[self.bare_path])) - first)

    def range_answer(
        self,
        *,
        total: int | None = None,
        etag: str | None = None,
        first: int | None = None,
        cut: int | None = None,
        modified: str = "",
        claimed: int | None = None,
    ) -> None:
        """The range asked for; arguments change what is claimed, `cut` breaks off after so many bytes."""
        data = self.web.files[self.bare_path]
        start, length = self.asked()
        size = len(data) if total is None else total
        if not length:
            self.send_response(416)
            self.send_header("Content-Range", f"bytes */{size}")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        said = start if first is None else first
        self.send_response(206)
        self.send_header("Content-Range", f"bytes {said}-{said + length - 1}/{size}")
        self.send_header("Content-Length", str(length if claimed is None else claimed))
        if etag is None:
            etag = self.web.etag(self.bare_path)
        if etag:
            self.send_header("ETag", etag)
        if modified:
            self.send_header("Last-Modified", modified)
        self.end_headers()
        body = data[start : start + length]
        self.wfile.write(body if cut is None else body[:cut])
        self.web.sent += len(body if cut is None else body[:cut])
        if cut is not None:
            self.close_connection = True

    def redirect(self, location: str) -> None:
        self.send_response(302)
        self.send_header("Location", location)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def drip(self, seconds: float) -> None:
        """The head of an answer, then nothing for so long."""
        self.send_response(206)
        self.wfile.flush()
        time.sleep(seconds)
        self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Nothing: the tests look at `requests`."""


def _handler(web: WebFiles) -> type[Answering]:
    return type("Handler", (Answering,), {"web": web})


def identify_source(store: Store, source: CaptionSource, remote: Remote) -> SourceIdentity:
    return look_up(store, source, remote)[0]


def open_job_source(store: Store, source: CaptionSource, remote: Remote) -> Source:
    return look_up(store, source, remote)[1]
