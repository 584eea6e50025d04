"""Finds a MinIO server for the tests or builds one with Go into the user's cache; prints its path on stdout.

Taken, in this order: $STABLEREP_TEST_MINIO, `minio` on PATH, stablerep/bin/minio in the user's cache folder,
and what `go install` makes of the pinned commit below (about 7 minutes on 2 cores, 112 MB). Two runs at once
build it once: the second waits for the first. Where it can't be had, one line on stderr says why.
With --find it only looks, and builds nothing.
"""

import fcntl
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType

# The last public commit of the server: the project was archived in 2026.
MODULE = "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c"


class MinioMissing(Exception):
    """No MinIO server can be had on this machine; the text is one line that says why."""


def cached() -> Path:
    """Where a built server lies (whether or not it is there)."""
    cache = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(cache) / "stablerep" / "bin" / "minio"


def find() -> Path | None:
    """The server that this machine has already; None when there is none.

    Raises MinioMissing when $STABLEREP_TEST_MINIO names no executable file: a wrong one is not passed over.
    """
    named = os.environ.get("STABLEREP_TEST_MINIO")
    if named:
        if not os.access(named, os.X_OK):
            raise MinioMissing(f"STABLEREP_TEST_MINIO names {named}, which is no executable file")
        return Path(named)
    on_path = shutil.which("minio")
    if on_path:
        return Path(on_path)
    return cached() if os.access(cached(), os.X_OK) else None


def ensure() -> Path:
    """The server's path, built first where it must be. Raises MinioMissing when that can't be done."""
    found = find()
    if found:
        return found
    go = shutil.which("go")
    if go is None:
        raise MinioMissing("no MinIO server: none on PATH, and no Go compiler (`go`) to build one with")
    target = cached()
    target.parent.mkdir(parents=True, exist_ok=True)
    with _lock(target.with_name("minio.lock")):
        if not os.access(target, os.X_OK):
            _build(go, target)
    return target


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock that the system lets go of when this process ends, however it ends."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(go: str, target: Path) -> None:
    """Builds into a folder beside `target` and renames, so that a half-written server is never found."""
    with tempfile.TemporaryDirectory(prefix="minio-", dir=target.parent) as folder:
        command = [go, "install", "-ldflags", "-s -w", MODULE]
        environment = os.environ | {"CGO_ENABLED": "0", "GOBIN": folder}
        print(
            "building a MinIO server with Go (once, about 7 minutes on 2 cores)", file=sys.stderr, flush=True
        )
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
            last = (log.read_text(errors="replace").strip().splitlines() or ["no output"])[-1]
            raise MinioMissing(f"no MinIO server: `go install {MODULE}` failed: {last}")
        (Path(folder) / "minio").replace(target)


def _only_found() -> Path:
    found = find()
    if found is None:
        raise MinioMissing("no MinIO server here yet")
    return found


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)  # a shell starts background jobs with SIGINT ignored
    try:
        print(_only_found() if "--find" in sys.argv[1:] else ensure())
    except MinioMissing as error:
        sys.exit(str(error))
