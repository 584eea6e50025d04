"""Fixtures of the tests on a real cluster, which `make test-cluster` alone runs: one release for all."""

import os
import subprocess
from collections.abc import Iterator

import pytest

from tests.cluster.kube import Release, release_of_environment, run

if "STABLEREP_TEST_CLUSTER_VALUES" not in os.environ:
    collect_ignore_glob = ["test_*.py"]  # there is no cluster

ENFORCED = ("enforce", "warn", "audit")


@pytest.fixture(scope="session")
def release() -> Iterator[Release]:
    """Installed under the restricted level, which the namespace enforces; removed at the end."""
    release = release_of_environment()
    levels = [f"pod-security.kubernetes.io/{mode}=restricted" for mode in ENFORCED]
    if release.namespace not in run("kubectl", "get", "namespaces", "-o", "name"):
        run("kubectl", "create", "namespace", release.namespace)
    run("kubectl", "label", "namespace", release.namespace, *levels)
    if release.name in release.helm("list", "--short").split():  # kept from the last time
        release.upgrade()
    else:
        release.install()
    yield release
    if not os.environ.get("STABLEREP_TEST_CLUSTER_KEEP"):
        subprocess.run(
            ["kubectl", "delete", "namespace", release.namespace, "--wait=true", "--timeout=180s"],
            check=False,
            capture_output=True,
        )
