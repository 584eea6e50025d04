"""/metrics, /healthz and /readyz of a process, on a small HTTP server in a thread of its own.

/healthz fails when the process should be restarted, /readyz while nothing should be sent to it; both say
why in one line. No address, no server.
"""

import ipaddress
import logging
import platform
import socket
import threading
from collections.abc import Callable
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer

import prometheus_client
from prometheus_client.exposition import choose_encoder

import stablerep
from stablerep.config.address import check_address
from stablerep.errors import InvalidInput, StableRepError

logger = logging.getLogger("stablerep.probes")

REQUEST_SECONDS = 10.0
"""A client that does not send its request for so long is hung up on."""
_build = prometheus_client.Info("stablerep_build", "Version of this process; always 1.")
_build.info({"version": stablerep.__version__, "python": platform.python_version()})
prometheus_client.disable_created_metrics()  # a second series for each, which no expression of ours reads

Check = Callable[[], str]
"""Says what is wrong, in one line; nothing when all is well. It may raise a StableRepError instead."""


class Probes:
    """A running server; `address` is host:port with the port that was taken."""

    def __init__(self, server: ThreadingHTTPServer, address: str) -> None:
        self.address = address
        self._server = server
        self._thread = threading.Thread(target=server.serve_forever, name="probes", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stops answering; may take half a second."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


def serve_probes(address: str, *, ready: Check, alive: Check, field: str) -> Probes | None:
    """Serves on `address` (host:port, port 0 takes a free one); None when it is empty.

    Raises:
        InvalidInput: it cannot be listened on; `field` is the setting that says so.
    """
    if not address:
        return None
    host, _, port = check_address(address, field=field, listening=True).rpartition(":")
    host = host.strip("[]")
    checks = {"/healthz": alive, "/readyz": ready}

    class Handler(_Handler):
        pages = checks

    class Server(ThreadingHTTPServer):
        address_family = socket.AF_INET6 if _is_ipv6(host) else socket.AF_INET
        daemon_threads = True
        request_queue_size = 32

        def server_bind(self) -> None:
            TCPServer.server_bind(self)  # HTTPServer's own asks DNS for a name that nothing here needs

    try:
        server = Server((host, int(port)), Handler)
    except OSError as error:
        raise InvalidInput(f"cannot listen on {address}: {error.strerror or error}", field=field) from error
    return Probes(server, f"{address.rpartition(':')[0]}:{server.server_address[1]}")


class _Handler(BaseHTTPRequestHandler):
    pages: dict[str, Check]
    timeout = REQUEST_SECONDS
    server_version = "stablerep"
    sys_version = ""

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        if path == "/metrics":
            encode, kind = choose_encoder(self.headers.get("Accept", ""))
            self._answer(HTTPStatus.OK, encode(prometheus_client.REGISTRY), kind)
        elif path in self.pages:
            problem = _problem(self.pages[path])
            status = HTTPStatus.SERVICE_UNAVAILABLE if problem else HTTPStatus.OK
            self._answer(status, f"{problem or 'ok'}\n".encode())
        else:
            self._answer(HTTPStatus.NOT_FOUND, b"here are /metrics, /healthz and /readyz\n")

    do_HEAD = do_GET

    def _answer(self, status: HTTPStatus, body: bytes, kind: str = "text/plain; charset=utf-8") -> None:
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)


def _problem(check: Check) -> str:
    try:
        return check()
    except StableRepError as error:
        return str(error).partition("\n")[0]


def _is_ipv6(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).version == 6
    except ValueError:
        return False
