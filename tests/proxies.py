"""A small HTTP proxy in front of a real S3 server, for what the server itself does not do on command.

It answers 503 for a while, or treats `If-None-Match` as servers do that do not honour it.
"""

import http.client
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Self
from urllib.parse import urlsplit

SLOW_DOWN = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>SlowDown</Code><Message>Please reduce your request '
    b"rate</Message><Resource>/</Resource><RequestId>1</RequestId></Error>"
)
NOT_IMPLEMENTED = (
    b'<?xml version="1.0" encoding="UTF-8"?><Error><Code>NotImplemented</Code><Message>A header you provided '
    b"implies functionality that is not implemented</Message></Error>"
)
PRECONDITION_FAILED = b"<Error><Code>PreconditionFailed</Code><Message>It is there</Message></Error>"
WINDOW_SECONDS = 0.05  # between the look and the write of a server that does these apart


class S3Proxy:
    """Forwards to `endpoint` until told otherwise. A context manager.

    `statuses` counts what it answered. While `busy` is set it answers 503 SlowDown itself and asks, as MinIO
    does, to be left alone for a minute. `conditions` says what a conditional PUT meets: "" the server behind,
    "ignored" one that overlooks the condition, "refused" one that answers 501, "late" one that looks first
    and writes later.
    """

    def __init__(self, endpoint: str) -> None:
        self.target = urlsplit(endpoint).netloc
        self.busy = threading.Event()
        self.conditions = ""
        self.statuses: Counter[int] = Counter()
        self.written: set[str] = set()
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)

    @property
    def endpoint(self) -> str:
        """http://host:port."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def _handle(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                proxy._answer(self, body)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _handle

            def log_message(self, format: str, *args: object) -> None:
                """Nothing: the tests' output is for the tests."""

        return Handler

    def _answer(self, request: BaseHTTPRequestHandler, body: bytes) -> None:
        path = request.path.partition("?")[0]
        conditional = request.command == "PUT" and "If-None-Match" in request.headers
        if self.busy.is_set():
            self._reply(request, 503, SLOW_DOWN, {"Retry-After": "60", "Content-Type": "application/xml"})
        elif conditional and self.conditions == "refused":
            self._reply(request, 501, NOT_IMPLEMENTED, {"Content-Type": "application/xml"})
        elif conditional and self.conditions == "late" and path in self.written:
            self._reply(request, 412, PRECONDITION_FAILED, {"Content-Type": "application/xml"})
        elif conditional and self.conditions == "late":
            time.sleep(WINDOW_SECONDS)
            self._forward(request, body, forget_condition=True)
            self.written.add(path)
        else:
            self._forward(request, body, forget_condition=self.conditions == "ignored")

    def _forward(self, request: BaseHTTPRequestHandler, body: bytes, *, forget_condition: bool) -> None:
        headers = dict(request.headers.items())
        if forget_condition:
            headers.pop("If-None-Match", None)
        connection = http.client.HTTPConnection(self.target, timeout=60)
        try:
            connection.request(request.command, request.path, body or None, headers)  # Host is signed: kept
            answer = connection.getresponse()
            data = answer.read()
        except OSError:
            self._reply(request, 502, b"<html>bad gateway</html>", {"Content-Type": "text/html"})
            return
        finally:
            connection.close()
        dropped = {"transfer-encoding", "connection"}
        if request.command != "HEAD":
            dropped.add("content-length")
        kept = {name: value for name, value in answer.getheaders() if name.lower() not in dropped}
        self._reply(request, answer.status, data, kept)

    def _reply(
        self, request: BaseHTTPRequestHandler, status: int, data: bytes, headers: dict[str, str]
    ) -> None:
        self.statuses[status] += 1
        request.send_response_only(status)
        for name, value in headers.items():
            request.send_header(name, value)
        if request.command != "HEAD":
            request.send_header("Content-Length", str(len(data)))
        elif "Content-Length" not in headers:
            request.send_header("Content-Length", "0")
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)
