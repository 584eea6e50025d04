"""Real servers, each a child process on a free loopback port: S3, Valkey, Redis."""

import atexit
import os
import secrets
import signal
import socket
import ssl
import subprocess
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path

START_SECONDS = 30.0
STOP_SECONDS = 10.0
_running: set["ServerProcess"] = set()
_unverified = ssl.create_default_context()  # whether a server is up is all that is asked with it
_unverified.check_hostname = False
_unverified.verify_mode = ssl.CERT_NONE


class ServerProcess:
    """One server process: started and waited for, stopped by its pid, at interpreter exit at the latest."""

    def __init__(
        self, command: Callable[[int], Sequence[str]], log: Path, environment: dict[str, str] | None = None
    ):
        self._command = command  # from a port to the command line
        self._log = log
        self._environment = environment or {}
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def pid(self) -> int:
        """The process id. Raises RuntimeError when it does not run."""
        if self._process is None:
            raise RuntimeError(f"{self._log.stem} is not running")
        return self._process.pid

    def start(self, ready: Callable[[], bool]) -> None:
        """Returns once `ready()` is true; where another process took the port first, tries another."""
        ports = [self.port] if self.port else [free_port() for _ in range(5)]
        for port in ports:
            self.port = port
            if self._start_once(ready):
                return
        text = self._log.read_text(encoding="utf-8", errors="replace")[-2000:]
        raise RuntimeError(
            f"{self._log.stem} did not start on any of the ports {ports}; its log ends:\n{text}"
        )

    def stop(self) -> None:
        """Asks the process to end, and ends it when it does not."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """Ends the process at once, as a crash would (SIGKILL)."""
        self._end(signal.SIGKILL)

    def _start_once(self, ready: Callable[[], bool]) -> bool:
        with self._log.open("ab") as log:
            # Its own session: Ctrl-C reaches the tests alone, which then stop their servers in order.
            self._process = subprocess.Popen(
                list(self._command(self.port)),
                env=os.environ | self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        _running.add(self)
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline and self._process.poll() is None:
            if ready():
                return True
            time.sleep(0.02)
        self.stop()
        return False

    def _end(self, number: signal.Signals) -> None:
        process, self._process = self._process, None
        _running.discard(self)
        if process is None:
            return
        process.send_signal(number)
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


@atexit.register
def stop_all() -> None:
    """Stops every server that still runs."""
    for server in list(_running):
        server.stop()


def free_port() -> int:
    """A loopback port that nothing listened on a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class RedisServer:
    """A Valkey or Redis server with an append-only file: what was written survives `kill`."""

    def __init__(self, program: Path, folder: Path) -> None:
        self._process = ServerProcess(
            lambda port: self._arguments(program, folder, port), folder / "redis.log"
        )
        self.start()

    @staticmethod
    def _arguments(program: Path, folder: Path, port: int) -> list[str]:
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(folder),
            "save": "",
            "appendonly": "yes",
        }
        return [str(program), *(word for name, value in options.items() for word in (f"--{name}", value))]

    @property
    def url(self) -> str:
        """The redis:// URL; the same again after `restart`."""
        return f"redis://127.0.0.1:{self._process.port}/0"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    def start(self) -> None:
        """Starts on the port it had before, with the data it had before."""
        self._process.start(self._answers)

    def kill(self) -> None:
        """Ends the server as a crash would."""
        self._process.kill()

    def stop(self) -> None:
        """Ends the server in order."""
        self._process.stop()

    def restart(self) -> None:
        """Ends the server if it runs, and starts it again on the same port with the same data."""
        self._process.stop()
        self.start()

    def _answers(self) -> bool:
        # PONG alone is not enough: while the append-only file is loaded, the answer is -LOADING.
        return exchange(self._process.port, b"PING\r\n").startswith(b"+PONG")


class S3Server(ABC):
    """An S3 server on an empty folder, with credentials of its own; `stop` and `start` keep data and port.

    With `tls`, a folder with public.crt and private.key, it speaks HTTPS alone. With `domain`, a bucket may
    also be named by the host: bucket.domain.
    """

    def __init__(
        self, program: Path, folder: Path, *, tls: Path | None = None, domain: str | None = None
    ) -> None:
        self.access_key, self.secret_key = secrets.token_hex(8), secrets.token_hex(16)
        self._tls = tls
        self._process = ServerProcess(
            lambda port: self._arguments(program, folder, port, domain),
            folder / f"{program.name}.log",
            {"HOME": str(folder)} | self._environment(domain),
        )
        self.start()

    @abstractmethod
    def _arguments(self, program: Path, folder: Path, port: int, domain: str | None) -> list[str]:
        """The command line that serves `folder` on the port."""

    @abstractmethod
    def _environment(self, domain: str | None) -> dict[str, str]:
        """Variables that the server reads, its credentials among them."""

    @abstractmethod
    def _answers(self) -> bool:
        """Whether it is up."""

    @property
    def endpoint(self) -> str:
        """http://host:port, or https://."""
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._process.port}"

    @property
    def pid(self) -> int:
        """The process id."""
        return self._process.pid

    @property
    def environment(self) -> dict[str, str]:
        """The environment with which `open_store("s3://...")` and the services reach this server."""
        return {
            "STABLEREP_S3_ENDPOINT": self.endpoint,
            "STABLEREP_S3_ACCESS_KEY": self.access_key,
            "STABLEREP_S3_SECRET_KEY": self.secret_key,
        }

    def start(self) -> None:
        """Starts on the port it had before, with the data it had before."""
        self._process.start(self._answers)

    def stop(self) -> None:
        """Ends the server in order."""
        self._process.stop()

    def kill(self) -> None:
        """Ends the server as a crash would."""
        self._process.kill()

    def _exchange(self, path: str) -> bytes:
        request = f"GET {path} HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n".encode()
        return exchange(self._process.port, request, tls=self._tls is not None)


class MinioServer(S3Server):
    """A MinIO server."""

    def _arguments(self, program: Path, folder: Path, port: int, domain: str | None) -> list[str]:
        certificates = ["--certs-dir", str(self._tls)] if self._tls else []  # else it looks into HOME
        address = ["--address", f"127.0.0.1:{port}"]
        return [str(program), "server", "--quiet", *certificates, *address, str(folder / "data")]

    def _environment(self, domain: str | None) -> dict[str, str]:
        return {
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        } | ({"MINIO_DOMAIN": domain} if domain else {})

    def _answers(self) -> bool:
        # health/ready answers before buckets can be made; a client's first call then waits up to a minute.
        return b" 200 OK" in self._exchange("/minio/health/cluster")[:20]


class VersityServer(S3Server):
    """A Versity S3 Gateway over a folder."""

    def _arguments(self, program: Path, folder: Path, port: int, domain: str | None) -> list[str]:
        data = folder / "data"
        data.mkdir(exist_ok=True)
        options = ["--port", f"127.0.0.1:{port}", "--keep-alive", "--quiet"]
        if self._tls:
            options += ["--cert", str(self._tls / "public.crt"), "--key", str(self._tls / "private.key")]
        if domain:
            options += ["--virtual-domain", domain]
        return [str(program), *options, "posix", str(data)]

    def _environment(self, domain: str | None) -> dict[str, str]:
        return {"ROOT_ACCESS_KEY": self.access_key, "ROOT_SECRET_KEY": self.secret_key}

    def _answers(self) -> bool:
        return b"VERSITYGW" in self._exchange("/")


def exchange(port: int, request: bytes, *, tls: bool = False) -> bytes:
    """What a loopback server answers to a few bytes (its first packet); empty when nobody listens."""
    try:
        with (
            socket.create_connection(("127.0.0.1", port), timeout=1) as plain,
            _unverified.wrap_socket(plain) if tls else plain as connection,
        ):
            connection.settimeout(1)
            connection.sendall(request)
            return connection.recv(4096)
    except OSError:
        return b""
