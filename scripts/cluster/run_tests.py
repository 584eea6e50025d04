"""Installs the chart on a real Kubernetes cluster and tries to lose data (`make test-cluster`).

The cluster is the one that KUBECONFIG names, else one of `kind` where that is installed, else one that
scripts/cluster builds and brings up on this machine (root, Linux, Go, apt; 7 minutes once, 6 GB). Images are
built from the project's Dockerfiles and imported. The tests are those of tests/cluster; further arguments go
to pytest.
Exit status 3 where no cluster or no Docker engine can be had.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

# The engine and the images of others are those of the compose test.
sys.path.insert(0, str(Path(__file__).parents[1] / "compose_test"))

from clusters import Cluster, ClusterMissing, chosen_cluster
from engine import EngineMissing, docker_engine
from images import ImageMissing, compose_variables
from transcript import CommandFailed, say

ROOT = Path(__file__).parents[2]
DOCKERFILES = {name: f"deploy/docker/{name}.Dockerfile" for name in ("gateway", "trainer", "generator")}
BASE = "python:3.12-slim-bookworm"
TESTS = "tests/cluster"


def main() -> int:
    """The exit status of pytest; 3 where there is nothing to test on."""
    parser = argparse.ArgumentParser(prog="python scripts/cluster/run_tests.py", description=__doc__)
    parser.add_argument(
        "--keep", action="store_true", help="leave the cluster and the release as they are at the end"
    )
    parser.add_argument(
        "--images",
        type=Path,
        metavar="FILE",
        help="values naming images that the cluster can pull; none is built",
    )
    arguments, for_pytest = parser.parse_known_args()
    parts: list[tuple[str, float]] = []
    try:
        with (
            _part(parts, "everything"),
            tempfile.TemporaryDirectory(prefix="stablerep-cluster-") as folder,
            chosen_cluster(keep=arguments.keep) as cluster,
        ):
            say("the cluster is up")
            values = Path(folder) / "values.yaml"
            with _part(parts, "images"):
                names = arguments.images or _images(cluster)
            _write_values(values, names)
            with _part(parts, "tests"):
                status = _test(cluster, values, for_pytest, keep=arguments.keep)
    except (ClusterMissing, EngineMissing, ImageMissing) as error:
        print(f"NOT TESTED: the chart on a cluster ({error})")
        return 3
    except CommandFailed as error:
        say(f"FAILED: {error}")
        return 1
    for name, seconds in parts:
        say(f"{name}: {seconds / 60:.1f} min")
    return status


def _test(cluster: Cluster, values: Path, for_pytest: list[str], *, keep: bool) -> int:
    tests = [] if any(TESTS in word for word in for_pytest) else [TESTS]
    environment = {
        **os.environ,
        **cluster.environment,
        "STABLEREP_TEST_CLUSTER_VALUES": str(values),
        "STABLEREP_TEST_CLUSTER_SIMULATED": str(cluster.simulated).lower(),
        "OMP_NUM_THREADS": "1",
    }
    if keep:
        environment["STABLEREP_TEST_CLUSTER_KEEP"] = "1"
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-v",
        "--durations=0",
        "--durations-min=5",
        *tests,
        *for_pytest,
    ]
    return subprocess.run(command, env=environment, cwd=ROOT, check=False).returncode


def _build_arguments(name: str, base: str) -> dict[str, str]:
    """Those of docker-compose.yml, empty ones included, so that the layers built for compose are taken."""
    found = {"BASE": base}
    for key in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", *(("TORCH_INDEX_URL",) if name != "gateway" else ())):
        found[key] = os.environ.get(key, "")
    return found


def _images(cluster: Cluster) -> dict[str, dict[str, object]]:
    """Builds ours, has those of others, takes all into the cluster; values that name them."""
    with docker_engine(ROOT / ".cache" / "compose-test") as engine:
        chart = yaml.safe_load((ROOT / "deploy/helm/stablerep/values.yaml").read_text(encoding="utf-8"))
        others = {
            name: f"{chart[name]['image']['repository']}:{chart[name]['image']['tag']}"
            for name in ("redis", "minio")
        }
        variables = compose_variables(engine, BASE, others)
        for name, file in DOCKERFILES.items():
            say(f"$ docker build -f {file}")
            arguments = [
                word
                for key, value in _build_arguments(name, variables.get("BASE_IMAGE", BASE)).items()
                for word in ("--build-arg", f"{key}={value}")
            ]
            tag = f"stablerep-{name}:local"
            engine.docker("build", *arguments, "--file", file, "--tag", tag, str(ROOT), timeout=3600)
        images = {name: variables.get(f"{name.upper()}_IMAGE", image) for name, image in others.items()}
        images |= {name: f"stablerep-{name}:local" for name in DOCKERFILES}
        cluster.load(engine, sorted(images.values()))
        values: dict[str, dict[str, object]] = {}
        for name, image in images.items():
            repository, _, tag = image.rpartition(":")
            values[name] = {"image": {"repository": repository, "tag": tag}}
        if "REDIS_IMAGE" in variables:
            user = engine.docker("run", "--rm", "--entrypoint", "id", images["redis"], "-u")
            values["redis"]["userId"] = int(user)
    return values


def _write_values(file: Path, names: dict[str, dict[str, object]] | Path) -> None:
    values = yaml.safe_load((ROOT / TESTS / "values.yaml").read_text(encoding="utf-8"))
    given = yaml.safe_load(names.read_text(encoding="utf-8")) if isinstance(names, Path) else names
    for component, part in given.items():
        values.setdefault(component, {}).update(part)
    file.write_text(yaml.safe_dump(values), encoding="utf-8")


@contextmanager
def _part(parts: list[tuple[str, float]], name: str) -> Iterator[None]:
    began = time.monotonic()
    yield
    parts.append((name, time.monotonic() - began))


if __name__ == "__main__":
    sys.exit(main())
