"""A TCP relay in front of a real server that is slow for real: so many bytes a second, each way, and late."""

import socket
import threading
import time
from typing import Self

CHUNK = 4096


class SlowLink:
    """Relays to `target` (host:port). A context manager; all its connections share `bytes_a_second`.

    Args:
        delay_seconds: added to each piece of an answer, as a far server's way takes.
    """

    def __init__(self, target: str, *, bytes_a_second: float, delay_seconds: float = 0.0) -> None:
        host, _, port = target.rpartition(":")
        self._target = (host, int(port))
        self.bytes_a_second = bytes_a_second
        self._delay_seconds = delay_seconds
        self._lock = threading.Lock()
        self._free_at = 0.0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._closed = False

    @property
    def address(self) -> str:
        """host:port."""
        return f"127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        self._listener.close()

    def _accept(self) -> None:
        while not self._closed:
            try:
                client, _ = self._listener.accept()
                server = socket.create_connection(self._target)
            except OSError:
                continue  # closed, or the server behind is away: the client is hung up on
            for end in (client, server):
                end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for source, sink, delay in ((client, server, 0.0), (server, client, self._delay_seconds)):
                threading.Thread(target=self._relay, args=(source, sink, delay), daemon=True).start()

    def _relay(self, source: socket.socket, sink: socket.socket, delay: float) -> None:
        try:
            while data := source.recv(CHUNK):
                self._wait_for_turn(len(data))
                time.sleep(delay)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)
        except OSError:
            for end in (source, sink):
                end.close()

    def _wait_for_turn(self, size: int) -> None:
        """All bytes go through one after the other, as on one line."""
        with self._lock:
            begin = max(time.monotonic(), self._free_at)
            self._free_at = begin + size / self.bytes_a_second
            wait = self._free_at - time.monotonic()
        if wait > 0:
            time.sleep(wait)
