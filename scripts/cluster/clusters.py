"""The cluster that the tests run on: the user's own, one of kind, or one brought up on this machine."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from engine import Engine
from transcript import run, say

OWN = Path(__file__).parent
SCRIPTS = OWN.parent
KIND_NAME = "stablerep-test"
SIMULATED_NODES = 8
SETUP_SECONDS = 3600


class ClusterMissing(Exception):
    """No cluster can be had here; the text is one line that says why."""


@dataclass(frozen=True)
class Cluster:
    """Where kubectl and helm reach it, and how images get into it."""

    kind: str
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def simulated(self) -> bool:
        """Whether it has simulated nodes with GPUs."""
        return self.kind == "own"

    def load(self, engine: Engine, images: list[str]) -> None:
        """Takes images of the engine into the cluster's nodes; those that are there already are left."""
        if self.kind == "given":
            say("images are expected to be in the cluster, or in a registry: see --images")
        elif self.kind == "kind":
            run(["kind", "load", "docker-image", "--name", KIND_NAME, *images], timeout=1800)
        else:
            _import(engine, images)


@contextmanager
def chosen_cluster(*, keep: bool) -> Iterator[Cluster]:
    """The first there is of KUBECONFIG's, kind's and one of our own, which is taken down again.

    Raises:
        ClusterMissing: in one line, what is missing.
    """
    tools = {"PATH": f"{_folder_of_helm()}:{os.environ['PATH']}"}
    if os.environ.get("KUBECONFIG"):
        say(f"cluster: the one of {os.environ['KUBECONFIG']}")
        yield Cluster("given", tools)
        return
    if shutil.which("kind"):
        say("cluster: one of kind")
        if KIND_NAME not in run(["kind", "get", "clusters"]).split():
            run(["kind", "create", "cluster", "--name", KIND_NAME, "--wait", "180s"], timeout=900)
        config = Path(os.environ.get("TMPDIR", "/tmp"), "stablerep-kind.kubeconfig")
        config.write_text(run(["kind", "get", "kubeconfig", "--name", KIND_NAME]), encoding="utf-8")
        try:
            yield Cluster("kind", {**tools, "KUBECONFIG": str(config)})
        finally:
            if not keep:
                run(["kind", "delete", "cluster", "--name", KIND_NAME])
        return
    if os.geteuid() != 0 or sys.platform != "linux":
        raise ClusterMissing(
            "KUBECONFIG is not set, kind is not installed, and a cluster of our own takes root"
        )
    with _own(tools, keep=keep) as cluster:
        yield cluster


@contextmanager
def _own(tools: dict[str, str], *, keep: bool) -> Iterator[Cluster]:
    say("cluster: one of our own; what it is built of is fetched once (7 minutes on two free cores, 6 GB)")
    _cluster("setup.sh", seconds=SETUP_SECONDS)
    if not _is_up():
        _cluster("cluster.sh", "down")
        _cluster("cluster.sh", "cp")
        _cluster("cluster.sh", "node", "1")
        _cluster("cluster.sh", "kwok", str(SIMULATED_NODES))
    programs, config = _programs_and_config()
    environment = {"KUBECONFIG": config, "PATH": f"{programs}:{tools['PATH']}"}
    run(
        ["kubectl", "apply", "-f", str(OWN / "manifests/coredns.yaml")],
        environment=environment,
    )
    try:
        yield Cluster("own", environment)
    finally:
        if not keep:
            _cluster("cluster.sh", "down")


def _is_up() -> bool:
    """Whether one that was kept still answers."""
    programs, config = _programs_and_config()
    command = [f"{programs}/kubectl", "--kubeconfig", config, "get", "node", "kn1"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _programs_and_config() -> tuple[str, str]:
    """The folder of kubectl, and the kubeconfig, whether or not the cluster is up."""
    printed = run(["bash", str(OWN / "cluster.sh"), "env"]).removeprefix("export ")
    values = dict(word.split("=", 1) for word in printed.split())
    return values["PATH"].partition(":")[0], values["KUBECONFIG"]


def _cluster(script: str, *arguments: str, seconds: float = 300) -> None:
    say(f"$ scripts/cluster/{script} {' '.join(arguments)}")
    run(["bash", str(OWN / script), *arguments], timeout=seconds)


def _import(engine: Engine, images: list[str]) -> None:
    """Pipes images into the node's containerd, which keeps them for the next time."""
    ids = {image: engine.docker("image", "inspect", "--format", "{{.Id}}", image).strip() for image in images}
    record = Path(run(["bash", str(OWN / "cluster.sh"), "images-record", "1"]).strip())
    there = json.loads(record.read_text(encoding="utf-8")) if record.exists() else {}
    missing = [image for image in images if there.get(image) != ids[image]]
    if not missing:
        say("images: all are in the node already")
        return
    say(f"$ docker save {' '.join(missing)} | ctr images import -")
    save = subprocess.Popen(
        ["docker", *(("-H", engine.host) if engine.host else ()), "save", *missing], stdout=subprocess.PIPE
    )
    load = ["bash", str(OWN / "cluster.sh"), "import", "1"]
    done = subprocess.run(load, stdin=save.stdout, capture_output=True, text=True, check=False)
    if save.wait() != 0 or done.returncode != 0:
        raise ClusterMissing(f"images could not be imported: {(done.stderr or done.stdout)[-300:]}")
    record.write_text(json.dumps(ids), encoding="utf-8")


def _folder_of_helm() -> Path:
    """Helm is on PATH, or installed as for the other tests."""
    found = run([sys.executable, str(SCRIPTS / "test_tools.py"), "helm"], timeout=1800).split()
    if not found:
        raise ClusterMissing("no helm, and it could not be built")
    return Path(found[0]).parent
