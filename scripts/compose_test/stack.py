"""The service brought up from docker-compose.yml under a project name, ports and passwords of its own."""

import json
import os
import secrets
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from engine import Engine
from minio import Minio
from transcript import run

from stablerep.client import GeneratorClient
from stablerep.errors import StableRepError

ROOT = Path(__file__).parents[2]
BUCKET = "stablerep"
PORTS = ("GATEWAY_PORT", "CONSOLE_PORT", "MINIO_PORT", "MINIO_CONSOLE_PORT", "PROMETHEUS_PORT")


@dataclass(frozen=True)
class Stack:
    """One compose project."""

    engine: Engine
    project: str
    variables: Mapping[str, str]

    @classmethod
    def create(cls, engine: Engine, images: Mapping[str, str]) -> "Stack":
        """A project with free ports of this machine and passwords made up here."""
        ports = dict(zip(PORTS, map(str, _free_ports(len(PORTS))), strict=True))
        passwords = {"MINIO_ROOT_USER": secrets.token_hex(8), "MINIO_ROOT_PASSWORD": secrets.token_hex(16)}
        variables = {**images, **ports, **passwords, "BUCKET": BUCKET}
        return cls(engine, f"stablerep-test-{os.getpid()}", variables)

    @property
    def gateway(self) -> str:
        """host:port for clients."""
        return f"127.0.0.1:{self.variables['GATEWAY_PORT']}"

    @property
    def console(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.variables['CONSOLE_PORT']}"

    @property
    def prometheus(self) -> str:
        """Its URL."""
        return f"http://127.0.0.1:{self.variables['PROMETHEUS_PORT']}"

    def minio(self) -> Minio:
        """A client of the store, from outside the containers."""
        user, password = self.variables["MINIO_ROOT_USER"], self.variables["MINIO_ROOT_PASSWORD"]
        return Minio(
            f"127.0.0.1:{self.variables['MINIO_PORT']}", access_key=user, secret_key=password, secure=False
        )

    def compose(
        self, *arguments: str, log: Path | None = None, timeout: float = 600, show: bool = True
    ) -> str:
        """What `docker compose ...` printed."""
        return run(
            [*self.engine.compose, "--project-name", self.project, *arguments],
            environment={**self.engine.environment, **self.variables},
            folder=ROOT,
            log=log,
            timeout=timeout,
            shown=f"docker compose {' '.join(arguments)}" if show else "",
        )

    def containers(self, service: str) -> list[str]:
        """Ids of the running containers of a service, oldest first."""
        return self.compose("ps", "--quiet", service, show=False).split()

    def python(self, service: str, program: str) -> str:
        """What a Python program prints in the service's oldest container."""
        return self.compose("exec", "-T", "--", service, "python", "-c", program, show=False).strip()

    def working(self) -> dict[str, str]:
        """Generator container -> shard that it has in hand; those with none are left out."""
        found = {}
        for container in self.containers("generator"):
            shard = self._shard(container)
            if shard:
                found[container] = shard
        return found

    def memory(self) -> dict[str, str]:
        """Container name -> memory in use, as the engine states it."""
        ids = self.compose("ps", "--quiet", show=False).split()
        lines = self.engine.docker("stats", "--no-stream", "--format", "{{.Name}} {{.MemUsage}}", *ids)
        return {
            name.removeprefix(f"{self.project}-"): used
            for name, used in (line.split()[:2] for line in lines.splitlines())
        }

    def down(self, *arguments: str) -> None:
        """`docker compose down`; with "--volumes" nothing of the project is left."""
        self.compose("down", *arguments, timeout=300)

    def _shard(self, container: str) -> str:
        bindings = json.loads(
            self.engine.docker("inspect", "--format", "{{json .NetworkSettings.Ports}}", container)
        )
        published: Sequence[Mapping[str, str]] = bindings.get("50052/tcp") or ()
        if not published:
            return ""
        try:
            with GeneratorClient(f"127.0.0.1:{published[0]['HostPort']}") as client:
                return client.status().shard
        except StableRepError:
            return ""


def _free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for probe in sockets:
            probe.bind(("127.0.0.1", 0))
        return [int(probe.getsockname()[1]) for probe in sockets]
    finally:
        for probe in sockets:
            probe.close()
