"""Finds an S3 server for the tests or builds it with Go into the user's cache; prints its path on stdout.

`python scripts/s3_servers.py minio versitygw`: one or both. Taken, in this order: what STABLEREP_TEST_MINIO
(STABLEREP_TEST_VERSITYGW) names, the program on PATH, stablerep/bin in the user's cache folder, and what
`go install` makes of the pinned versions below. Two runs at once build it once: the second waits for the
first. Where it can't be had, one line on stderr says why. With --find it only looks, and builds nothing.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType


class ServerMissing(Exception):
    """The server can't be had on this machine; the text is one line that says why."""


@dataclass(frozen=True)
class Server:
    """A server program and where its source is; `cost` is what a user should know before it is built."""

    name: str
    title: str
    module: str
    cost: str

    @property
    def variable(self) -> str:
        return f"STABLEREP_TEST_{self.name.upper()}"

    @property
    def cached(self) -> Path:
        """Where it lies once built (whether or not it is there)."""
        cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
        return Path(cache) / "stablerep" / "bin" / self.name


SERVERS = {
    "minio": Server(
        "minio",
        "MinIO",
        # The last public commit: the project was archived in 2026.
        "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c",
        "about 7 minutes on 2 cores, 112 MB",
    ),
    "versitygw": Server(
        "versitygw",
        "Versity S3 Gateway",
        "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
        "about a minute on 2 cores, 45 MB",
    ),
}


def find(server: Server) -> Path | None:
    """The program that this machine has already; None when there is none.

    Raises ServerMissing when the variable names no executable file: a wrong one is not passed over.
    """
    named = os.environ.get(server.variable)
    if named:
        if not os.access(named, os.X_OK):
            raise ServerMissing(
                f"no {server.title} server: {server.variable} names {named}, which is no executable file"
            )
        return Path(named)
    on_path = shutil.which(server.name)
    if on_path:
        return Path(on_path)
    return server.cached if os.access(server.cached, os.X_OK) else None


def ensure(server: Server) -> Path:
    """The program's path, built first where it must be. Raises ServerMissing when that can't be done."""
    found = find(server)
    if found:
        return found
    go = shutil.which("go")
    if go is None:
        raise ServerMissing(
            f"no {server.title} server: none on PATH, and no Go compiler (`go`) to build one with"
        )
    target = server.cached
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.with_name(f"{server.name}.lock")):
        if not os.access(target, os.X_OK):
            _build(go, server, target)
    return target


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock that the system lets go of when this process ends, however it ends."""
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(go: str, server: Server, target: Path) -> None:
    """Builds into a folder beside `target` and renames, so that a half-written server is never found."""
    with tempfile.TemporaryDirectory(prefix=f"{server.name}-", dir=target.parent) as folder:
        command = [go, "install", "-ldflags", "-s -w", server.module]
        environment = os.environ | {"CGO_ENABLED": "0", "GOBIN": folder}
        print(f"building a {server.title} server with Go (once, {server.cost})", file=sys.stderr, flush=True)
        log = Path(folder) / "build.log"
        with log.open("wb") as output:
            # Its own process group: stopping this script must stop the compilers that `go` started, too.
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
            )
            try:
                status = process.wait()
            except BaseException:
                os.killpg(process.pid, signal.SIGTERM)
                process.wait()
                raise
        if status != 0:
            last = (log.read_text(errors="replace", encoding="utf-8").strip().splitlines() or ["no output"])[
                -1
            ]
            raise ServerMissing(f"no {server.title} server: `go install {server.module}` failed: {last}")
        (Path(folder) / server.name).replace(target)


def _only_found(server: Server) -> Path:
    found = find(server)
    if found is None:
        raise ServerMissing(f"no {server.title} server here yet")
    return found


def main(arguments: Sequence[str]) -> int:
    """Prints the paths; those that can't be had are named on stderr, and make the exit status 1."""
    get = _only_found if "--find" in arguments else ensure
    names = [word for word in arguments if word != "--find"]
    if not names or not set(names) <= set(SERVERS):
        print(f"say which: python scripts/s3_servers.py [--find] {' '.join(SERVERS)}", file=sys.stderr)
        return 2
    status = 0
    for name in names:
        try:
            print(get(SERVERS[name]), flush=True)
        except ServerMissing as error:
            print(error, file=sys.stderr)
            status = 1
    return status


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)  # a shell starts background jobs with SIGINT ignored
    sys.exit(main(sys.argv[1:]))
