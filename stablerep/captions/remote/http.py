"""Files behind http(s) URLs, read by ranges like the objects of a store, with an eye on where a URL leads.

Each connection is made to an address that was checked just before, not to a name that is resolved again; each
redirect must be allowed like the URL itself; each answer must be of the same bytes as the first. Proxies of
the environment are not used, since then another machine would choose the address.
"""

import http.client
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from urllib.parse import urljoin

from stablerep.captions.remote.addresses import check_address
from stablerep.captions.remote.urls import PORTS, SourceUrl
from stablerep.errors import InvalidInput, NotFound, StableRepError, TornObject, Unavailable
from stablerep.storage.interface import ObjectInfo

CONNECT_SECONDS = 5.0
SILENT_SECONDS = 10.0
"""A server that sends nothing for so long is given up."""
PIECE_SECONDS = 60.0
"""For one range, however slowly it drips."""
TRIES = 4
"""In a row, without a byte."""
PAUSE_SECONDS = 0.1
"""Before the first try again; doubled each time."""
MAX_PIECES = 16
"""Into which one range may break."""
REDIRECTS = 5
_CHUNK = 1 << 16
_MOVED = (301, 302, 303, 307, 308)
_BUSY = (408, 425, 429, 500, 502, 503, 504)
_RANGE = re.compile(r"bytes (?:(\d{1,18})-(\d{1,18})|\*)/(\d{1,18})")


class HttpObjects:
    """`stat` and `get_range` over http(s); keys are URLs. For one thread at a time; `close` it.

    Args:
        check: gives the one form of a URL that may be read, and raises InvalidInput for another.
        private_networks: whether addresses of private networks may be connected to.
        size_limit: of a file, in bytes.
        known: what `stat` said of a file before; it must still be the same.
    """

    def __init__(
        self,
        check: Callable[[str], SourceUrl],
        *,
        private_networks: bool = False,
        size_limit: int = 64 << 30,
        known: ObjectInfo | None = None,
    ) -> None:
        self._check = check
        self._private_networks = private_networks
        self._size_limit = size_limit
        self._connections: dict[tuple[str, str], _Connection] = {}
        self._seen = {} if known is None else {known.key: known}

    def close(self) -> None:
        """Ends the connections; later calls make new ones."""
        while self._connections:
            self._connections.popitem()[1].close()

    def stat(self, key: str) -> ObjectInfo | None:
        """Size and ETag (or Last-Modified) by a range of one byte: signed URLs often forbid HEAD.

        None where there is no such file. Raises InvalidInput for a file that cannot be read by ranges, cannot
        be known again, or is too large; Unavailable.
        """
        self._seen.pop(key, None)
        try:
            self._try(key, lambda: self._read(key, 0, 1))
        except NotFound:
            return None
        return self._seen[key]

    def get_range(self, key: str, offset: int, length: int) -> bytes:
        """Exactly `length` bytes; an interrupted download is resumed.

        Raises:
            NotFound: the file is gone.
            TornObject: it ends before, or is another than it was at the first answer.
            InvalidInput: it may not be read, or not by ranges.
            Unavailable: no answer, again and again.
        """
        data = bytearray()
        for _ in range(MAX_PIECES):
            if len(data) == length:
                return bytes(data)
            start = offset + len(data)
            piece = self._try(key, lambda: self._read(key, start, length - len(data)))  # noqa: B023
            if not piece:
                raise TornObject(f"{_shown(key)} ends before byte {offset + length}")
            data += piece
        raise Unavailable(f"{_shown(key)} breaks off again and again near byte {offset}; try again")

    def _try(self, key: str, read: Callable[[], bytes]) -> bytes:
        """Tries again, with growing pauses, what did not bring a byte."""
        for attempt in range(1, TRIES + 1):
            try:
                return read()
            except StableRepError as error:
                self.close()
                if not isinstance(error, Unavailable) or attempt == TRIES:
                    raise
            except ssl.SSLCertVerificationError as error:
                self.close()
                raise InvalidInput(
                    f"{_shown(key)}: its certificate is not valid: {error.verify_message}", field="uri"
                ) from error
            except (
                OSError,
                http.client.HTTPException,
                ValueError,
            ) as error:  # ValueError: cut off while in TLS
                self.close()
                if attempt == TRIES:
                    raise Unavailable(f"{_shown(key)} cannot be read: {_text(error)}; try again") from error
            time.sleep(PAUSE_SECONDS * 2**attempt)
        raise AssertionError("unreachable")

    def _read(self, key: str, start: int, length: int) -> bytes:
        """At least one byte from `start`, unless there is none."""
        with self._answer(self._check(key), start, length) as response:
            if not self._expected(key, response, start):
                return b""
            data = bytearray()
            try:
                while len(data) < length and (chunk := response.read(min(_CHUNK, length - len(data)))):
                    data += chunk
            except (OSError, http.client.HTTPException, ValueError):
                self.close()
                if not data:
                    raise
            if not data:
                raise Unavailable(f"{_shown(key)}: the connection broke off at byte {start}; try again")
            return bytes(data)

    @contextmanager
    def _answer(self, url: SourceUrl, start: int, length: int) -> Iterator[http.client.HTTPResponse]:
        """The answer to a range, behind redirects; the connection is kept if all of it was read."""
        for _ in range(REDIRECTS + 1):
            connection = self._connection(url)
            with _cut_off(connection, PIECE_SECONDS):
                connection.request(
                    "GET",
                    f"{url.path}{url.query}",
                    headers={
                        "Range": f"bytes={start}-{start + length - 1}",
                        "Accept-Encoding": "identity",
                        "User-Agent": "stablerep",
                    },
                )
                response = connection.getresponse()
                if response.status not in _MOVED:
                    try:
                        yield response
                    finally:
                        if not response.isclosed():
                            self.close()
                    return
            self.close()
            url = self._check(urljoin(str(url), response.getheader("Location") or ""))
        raise InvalidInput(f"{url.shown} is redirected more than {REDIRECTS} times", field="uri")

    def _connection(self, url: SourceUrl) -> "_Connection":
        origin = (url.scheme, url.host)
        if origin not in self._connections:
            kind = _TlsConnection if url.scheme == "https" else _Connection
            self._connections[origin] = kind(url, self._private_networks)
        return self._connections[origin]

    def _expected(self, key: str, response: http.client.HTTPResponse, start: int) -> bool:
        """Whether bytes from `start` follow; False at the file's end. Raises for what is no answer."""
        status, shown = response.status, _shown(key)
        if status in (404, 410):
            raise NotFound(f"there is no file {shown}")
        if status in _BUSY:
            raise Unavailable(f"{shown} is busy: {_status(status)}; try again")
        if status not in (200, 206, 416):
            raise InvalidInput(f"{shown} answered {_status(status)}", field="uri")
        found = _RANGE.fullmatch(response.getheader("Content-Range", "").strip())
        if found is None and status == 416 and key in self._seen:
            raise TornObject(f"{shown} ends before byte {start}")
        if status == 200 or found is None:
            raise InvalidInput(
                f"{shown} is not served by ranges, so a download that breaks off cannot resume; upload it",
                field="uri",
            )
        self._recognise(key, response, int(found[3]))
        if status == 416:
            return False
        if found[1] is None or int(found[1]) != start:
            raise TornObject(f"{shown} answered with other bytes than those from {start}")
        return True

    def _recognise(self, key: str, response: http.client.HTTPResponse, size: int) -> None:
        shown = _shown(key)
        if size > self._size_limit:
            raise InvalidInput(f"{shown} has {size} bytes; at most {self._size_limit} are read", field="uri")
        etag = response.getheader("ETag") or response.getheader("Last-Modified") or ""
        if not etag and response.status == 206:
            raise InvalidInput(
                f"{shown} has neither ETag nor Last-Modified, so a change would go unseen; upload it",
                field="uri",
            )
        info = self._seen.setdefault(key, ObjectInfo(key, size, etag.strip('"')[:200]))
        same = not etag or etag.strip('"')[:200] == info.etag  # an answer without a range may have no ETag
        if not same or info.size != size:
            raise TornObject(f"{shown} has changed while it was read")


class _Connection(http.client.HTTPConnection):
    """Connects to an address of the host that was checked, and to no other."""

    def __init__(self, url: SourceUrl, private_networks: bool) -> None:
        self.opened: socket.socket | None = (
            None  # `sock` is forgotten when the server announces the last answer
        )
        host, _, port = url.host.rpartition(":") if re.search(r":\d+$", url.host) else (url.host, "", "")
        number = int(port) if port else PORTS[url.scheme]
        super().__init__(host.strip("[]"), number, timeout=SILENT_SECONDS)
        self._private_networks = private_networks

    def connect(self) -> None:
        found = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM)
        for *_, address in found:
            check_address(str(address[0]), private_networks=self._private_networks)
        self.sock = self.opened = _connected(found)


class _TlsConnection(_Connection):
    default_port = PORTS["https"]

    def connect(self) -> None:
        super().connect()
        context = ssl.create_default_context()
        self.sock = self.opened = context.wrap_socket(self.sock, server_hostname=self.host)


def _connected(found: list) -> socket.socket:
    """A socket to the first address that answers."""
    error: OSError = ConnectionError("the name has no address")
    for family, kind, protocol, _, address in found:
        connection = socket.socket(family, kind, protocol)
        try:
            connection.settimeout(CONNECT_SECONDS)
            connection.connect(address)
        except OSError as failed:
            connection.close()
            error = failed
        else:
            connection.settimeout(SILENT_SECONDS)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connection
    raise error


@contextmanager
def _cut_off(connection: _Connection, seconds: float) -> Iterator[None]:
    """Shuts the socket down after so long: a time limit on each read alone can be dripped past."""

    def shut() -> None:
        if connection.opened is not None:
            with suppress(OSError):  # closed meanwhile
                socket.socket.shutdown(connection.opened, socket.SHUT_RDWR)

    timer = threading.Timer(seconds, shut)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def _status(status: int) -> str:
    return f"{status} {http.client.responses.get(status, '')}".strip()


def _shown(key: str) -> str:
    return key.partition("?")[0][:200]


def _text(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
