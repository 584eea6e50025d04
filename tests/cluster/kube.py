"""A cluster and the release in it, by kubectl and helm, as an operator has them."""

import contextlib
import json
import os
import re
import socket
import subprocess
import time
from base64 import b64decode
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from minio import Minio

from stablerep.client import Client
from tests.paths import ROOT

CHART = ROOT / "deploy/helm/stablerep"
WAIT_SECONDS = 300.0
Object = dict[str, Any]
T = TypeVar("T")


def run(*command: str, stdin: str = "", seconds: float = WAIT_SECONDS, check: bool = True) -> str:
    """What a command printed. Raises AssertionError with its output when it fails."""
    done = subprocess.run(
        command, input=stdin, capture_output=True, text=True, timeout=seconds, check=False, cwd=ROOT
    )
    if check and done.returncode != 0:
        raise AssertionError(f"{' '.join(command)} failed:\n{done.stdout}{done.stderr}")
    return done.stdout if check else done.stdout + done.stderr


def until(what: str, found: Callable[[], T], seconds: float = WAIT_SECONDS) -> T:
    """Asks again and again until the answer is true, and gives it."""
    deadline = time.monotonic() + seconds
    while True:
        answer = found()
        if answer:
            return answer
        assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
        time.sleep(0.5)


@dataclass(frozen=True)
class Release:
    """The chart installed as `name` in a namespace of its own."""

    name: str
    namespace: str
    values: Path
    simulated: bool
    """Whether there are simulated nodes with GPUs (kwok)."""

    def kubectl(self, *arguments: str, stdin: str = "", seconds: float = WAIT_SECONDS) -> str:
        return run("kubectl", "-n", self.namespace, *arguments, stdin=stdin, seconds=seconds)

    def get(self, kind: str, *more: str) -> Object:
        found: Object = json.loads(self.kubectl("get", kind, *more, "-o", "json"))
        return found

    def items(self, kind: str, selector: str = "") -> list[Object]:
        chosen = ("-l", selector) if selector else ()
        found: list[Object] = self.get(kind, *chosen)["items"]
        return found

    def helm(self, *arguments: str) -> str:
        return run("helm", "-n", self.namespace, *arguments, seconds=600)

    def install(self, *options: str) -> str:
        return self.helm(
            "install", self.name, str(CHART), "-f", str(self.values), "--wait", "--timeout", "8m", *options
        )

    def upgrade(self, *options: str) -> str:
        values = ("--reset-values", "-f", str(self.values))
        return self.helm("upgrade", self.name, str(CHART), *values, "--wait", "--timeout", "8m", *options)

    def object(self, component: str) -> str:
        """The name of a component's objects."""
        return f"{self.name}-stablerep-{component}"

    def pods(self, component: str) -> list[Object]:
        """Pods that are not about to go."""
        found = self.items(
            "pods", f"app.kubernetes.io/instance={self.name},app.kubernetes.io/component={component}"
        )
        return [pod for pod in found if "deletionTimestamp" not in pod["metadata"]]

    def ready(self, component: str) -> list[str]:
        """Names of a component's ready pods."""
        return [name_of(pod) for pod in self.pods(component) if is_ready(pod)]

    def secret(self, name: str, key: str) -> str:
        return b64decode(self.get("secret", name)["data"][key]).decode()

    @contextmanager
    def reach(self, service: str, port: int) -> Iterator[str]:
        """host:port of a Service, from this machine: its own address where that is routed, else a forward."""
        address = self.get("service", service)["spec"]["clusterIP"]
        with contextlib.suppress(OSError):
            socket.create_connection((address, port), timeout=2).close()
            yield f"{address}:{port}"
            return
        with self.forward(f"service/{service}", port) as forwarded:
            yield forwarded

    @contextmanager
    def forward(self, target: str, port: int) -> Iterator[str]:
        """host:port of a pod or Service by `kubectl port-forward`."""
        command = ["kubectl", "-n", self.namespace, "port-forward", target, f":{port}"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
        try:
            assert process.stdout is not None
            line = process.stdout.readline()
            found = re.search(r"127\.0\.0\.1:(\d+)", line)
            assert found, line
            yield f"127.0.0.1:{found[1]}"
        finally:
            process.terminate()
            process.wait()

    @contextmanager
    def client(self) -> Iterator[Client]:
        """An admin's client, through the gateway's Service."""
        token = self.secret(f"{self.name}-stablerep-tokens", "token")
        with (
            self.reach(self.object("gateway"), 50051) as address,
            Client(address, token, allow_clear_text=True) as client,
        ):
            yield client

    @contextmanager
    def minio(self) -> Iterator[Minio]:
        """The store, with no code of ours."""
        secret = self.object("minio")
        keys = {key: self.secret(secret, key) for key in ("access_key", "secret_key")}
        with self.reach(self.object("minio"), 9000) as address:
            yield Minio(address, **keys, secure=False)


def name_of(found: Object) -> str:
    return str(found["metadata"]["name"])


def is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def release_of_environment() -> Release:
    """The release that scripts/cluster_test describes. KeyError: the tests were not started by it."""
    values = Path(os.environ["STABLEREP_TEST_CLUSTER_VALUES"])
    simulated = os.environ.get("STABLEREP_TEST_CLUSTER_SIMULATED", "") == "true"
    return Release("sr", os.environ.get("STABLEREP_TEST_CLUSTER_NAMESPACE", "sr-test"), values, simulated)
