"""The images that the compose file names: pulled, or made from Debian's packages."""

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from engine import Engine
from transcript import CommandFailed, run, say

PYTHON = "stablerep-test-base:local"
PACKAGES = "python3,python3-venv,libpython3-dev,ca-certificates"  # with headers, as python:3.12-slim has them
SUITE = "bookworm"
SOURCES = ("/etc/apt/sources.list.d/debian.sources", "/etc/apt/sources.list")
PULL_SECONDS = 600

REDIS = f"""\
FROM {PYTHON}
RUN apt-get update && apt-get install -y --no-install-recommends redis-server \\
    && rm -rf /var/lib/apt/lists/* && mkdir /data && chown redis:redis /data
USER redis
"""
# The package alone: its dependencies are pages of a web console.
PROMETHEUS = f"""\
FROM {PYTHON}
RUN cd /tmp && apt-get update && apt-get install -y --no-install-recommends wget \\
    && apt-get download prometheus && dpkg -x prometheus_*.deb x && cp x/usr/bin/prom* /usr/local/bin \\
    && rm -rf /tmp/* /var/lib/apt/lists/* && mkdir /prometheus && chown 65534:65534 /prometheus
USER 65534:65534
ENTRYPOINT ["prometheus"]
"""
MINIO = f"""\
FROM {PYTHON}
RUN apt-get update && apt-get install -y --no-install-recommends wget \\
    && rm -rf /var/lib/apt/lists/* && mkdir /data
COPY minio /usr/local/bin/minio
ENTRYPOINT ["minio"]
"""
SERVERS = {"redis": REDIS, "prometheus": PROMETHEUS, "minio": MINIO}


class ImageMissing(Exception):
    """An image can be neither pulled nor made here; the text is one line that says why."""


def compose_variables(engine: Engine, base: str, servers: dict[str, str]) -> dict[str, str]:
    """The variables of docker-compose.yml that name images which this machine has.

    Args:
        base: the base image that the compose file would take.
        servers: service -> image that the compose file would take.

    Raises:
        ImageMissing: what can't be had.
    """
    if all(_had(engine, image) for image in (base, *servers.values())):
        return {}
    say("no registry answers: images are made here from Debian's packages")
    _ensure_python(engine)
    variables = {"BASE_IMAGE": PYTHON}
    for service in servers:
        image = f"stablerep-test-{service}:local"
        if not _present(engine, image):
            _build_server(engine, service, image)
        variables[f"{service.upper()}_IMAGE"] = image
    return variables


def _present(engine: Engine, image: str) -> bool:
    return bool(engine.docker("image", "ls", "--quiet", image).strip())


def _had(engine: Engine, image: str) -> bool:
    if _present(engine, image):
        return True
    try:
        engine.docker("pull", "--quiet", image, timeout=PULL_SECONDS)
    except CommandFailed:
        return False
    return True


def _ensure_python(engine: Engine) -> None:
    """Debian with Python, and with this machine's certificates and pip settings."""
    if _present(engine, PYTHON):
        return
    if shutil.which("debootstrap") is None:
        raise ImageMissing("no registry answers, and there is no `debootstrap` to make a base image with")
    with tempfile.TemporaryDirectory(prefix="stablerep-base-") as folder:
        root = Path(folder) / "root"
        say(f"$ debootstrap --variant=minbase --include={PACKAGES} {SUITE}")
        command = ["nice", "debootstrap", "--variant=minbase"]
        command += [f"--include={PACKAGES}", SUITE, str(root), *_mirror()]
        run(command, log=Path(folder) / "log", timeout=1200)
        for path in ("/etc/ssl/certs/ca-certificates.crt", "/etc/pip.conf"):
            if Path(path).exists():
                shutil.copyfile(path, f"{root}{path}")
        for leftover in (*root.glob("var/cache/apt/archives/*.deb"), *root.glob("var/lib/apt/lists/*_*")):
            leftover.unlink()
        _import(engine, root)


def _import(engine: Engine, root: Path) -> None:
    pack = subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE)
    subprocess.run(
        ["docker", *(("-H", engine.host) if engine.host else ()), "import", "-", PYTHON],
        stdin=pack.stdout,
        stdout=subprocess.DEVNULL,
        check=True,
    )
    if pack.wait() != 0:
        raise ImageMissing("tar could not pack the base image")


def _mirror() -> list[str]:
    """The mirror that this machine's own package manager uses, if it is a Debian; else debootstrap's own."""
    for path in map(Path, SOURCES):
        if path.exists():
            found = re.search(
                r"^(?:URIs:|deb(?: \[.*?\])?)\s+(\S+/debian)/?\s",
                path.read_text(encoding="utf-8"),
                re.MULTILINE,
            )
            if found:
                return [found[1]]
    return []


def _build_server(engine: Engine, service: str, image: str) -> None:
    with tempfile.TemporaryDirectory(prefix="stablerep-image-") as folder:
        if service == "minio":
            program = run([sys.executable, "scripts/test_tools.py", "minio"], timeout=1800).strip()
            shutil.copyfile(program, f"{folder}/minio")
            Path(folder, "minio").chmod(0o755)
        Path(folder, "Dockerfile").write_text(SERVERS[service], encoding="utf-8")
        say(f"$ docker build -t {image}")
        engine.docker("build", "--tag", image, folder, log=Path(folder, "log"))
