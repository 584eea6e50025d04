"""A Docker engine with compose: one that runs, else a dockerd of our own in a folder of its own."""

import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from transcript import CommandFailed, run, say

COMPOSE_MODULE = "github.com/docker/compose/v5/cmd@v5.0.2"
"""Newer ones want a newer Go than 1.24; those before 5 cannot be had by `go install`."""
START_SECONDS = 60.0
STOP_SECONDS = 60.0


class EngineMissing(Exception):
    """No engine, or no compose, can be had here; the text is one line that says why."""


@dataclass(frozen=True)
class Engine:
    """Where the engine listens and how compose is called."""

    host: str
    """What DOCKER_HOST has to be; empty: what it is already."""
    compose: tuple[str, ...]
    is_ours: bool
    """Started here, so that nobody else's images are in it."""

    @property
    def environment(self) -> dict[str, str]:
        """What commands need; where buildx is not installed, the builder before it is used."""
        found = {"DOCKER_HOST": self.host} if self.host else {}
        if not _works(["docker", "buildx", "version"]):
            found["DOCKER_BUILDKIT"] = "0"
        return found

    def docker(self, *arguments: str, log: Path | None = None, timeout: float = 600) -> str:
        """What `docker ...` printed."""
        return run(["docker", *arguments], environment=self.environment, log=log, timeout=timeout)


@contextmanager
def docker_engine(folder: Path) -> Iterator[Engine]:
    """An engine for as long as the block runs; one that was started here is stopped at its end.

    Args:
        folder: where an engine of our own keeps images and volumes.

    Raises:
        EngineMissing: what is missing, in one line.
    """
    if shutil.which("docker") is None:
        raise EngineMissing("no `docker` command here")
    compose = _compose(folder)
    if _works(["docker", "info"]):
        say("engine: the one that runs here")
        yield Engine("", compose, False)
        return
    if shutil.which("dockerd") is None or os.geteuid() != 0:
        raise EngineMissing("no Docker engine answers, and starting one takes root and `dockerd`")
    host = f"unix://{folder}/docker.sock"
    process = _start(folder, host)
    try:
        yield Engine(host, compose, True)
    finally:
        process.terminate()
        try:
            process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _start(folder: Path, host: str) -> "subprocess.Popen[bytes]":
    folder.mkdir(parents=True, exist_ok=True)
    command = ["dockerd", "--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    command += ["-H", host, "--pidfile", str(folder / "pid")]
    say("engine: none runs, starting " + " ".join(command[:3]))
    with (folder / "dockerd.log").open("ab") as log:
        # Its own session: Ctrl-C reaches this test alone, which stops the engine last.
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        if _works(["docker", "-H", host, "info"]):
            return process
        time.sleep(0.2)
    process.terminate()
    process.wait()
    raise EngineMissing(f"dockerd did not start; see {folder}/dockerd.log")


def _compose(folder: Path) -> tuple[str, ...]:
    """`docker compose`, else a compose built with Go into the cache folder."""
    if _works(["docker", "compose", "version"]):
        return ("docker", "compose")
    built = folder / "bin" / "docker-compose"
    if not os.access(built, os.X_OK):
        go = shutil.which("go")
        if go is None:
            raise EngineMissing("no `docker compose` here, and no Go compiler to build it with")
        say(f"compose: none here, building {COMPOSE_MODULE} (2 minutes)")
        built.parent.mkdir(parents=True, exist_ok=True)
        environment = {"CGO_ENABLED": "0", "GOBIN": str(built.parent)}
        try:
            run(["nice", go, "install", "-ldflags", "-s -w", COMPOSE_MODULE], environment=environment)
        except CommandFailed as error:
            raise EngineMissing(f"docker compose cannot be built: {str(error).splitlines()[-1]}") from None
        (built.parent / "cmd").replace(built)
    return (str(built),)


def _works(command: list[str]) -> bool:
    return subprocess.run(command, capture_output=True, check=False).returncode == 0
