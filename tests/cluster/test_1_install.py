"""The chart installed by helm on a real cluster: everything ready, least rights, restricted pods, metrics."""

import json
import urllib.request
from itertools import product
from typing import Any

import pytest

from tests.cluster.kube import Release, is_ready, name_of, run

pytestmark = pytest.mark.timeout(900)
COMPONENTS = {"gateway": 2, "generator": 1, "redis": 1, "minio": 1}


def test_everything_is_ready(release: Release) -> None:
    for component, count in COMPONENTS.items():
        pods = release.pods(component)
        assert len(pods) == count, component
        assert all(map(is_ready, pods)), component
        assert all(
            status["restartCount"] == 0 for pod in pods for status in pod["status"]["containerStatuses"]
        )


def test_helms_own_test_passes(release: Release) -> None:
    printed = release.helm("test", release.name, "--timeout", "5m")
    assert "Succeeded" in printed


def test_the_notes_say_what_to_type(release: Release) -> None:
    notes = release.helm("get", "notes", release.name)
    assert f"kubectl -n {release.namespace} port-forward service/{release.object('gateway')}" in notes
    assert f"get secret {release.name}-stablerep-tokens" in notes
    assert "stablerep train --on kubernetes" in notes


def test_the_namespace_enforces_the_restricted_level(release: Release) -> None:
    pod = {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "privileged"},
        "spec": {
            "containers": [{"name": "a", "image": "x", "securityContext": {"privileged": True}}],
        },
    }
    said = run(
        "kubectl", "-n", release.namespace, "apply", "--dry-run=server", "-f", "-",
        stdin=json.dumps(pod), check=False,
    )  # fmt: skip
    assert "violates PodSecurity" in said


ALLOWED = {
    "gateway": {
        "create jobs.batch", "get jobs.batch", "patch jobs.batch", "delete jobs.batch",
        "create services", "list pods", "get pods/log",
    },
    "generator": set(),
    "trainer": set(),
    "default": set(),
}  # fmt: skip
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
RESOURCES = (
    "pods", "pods/log", "pods/exec", "services", "secrets", "configmaps", "serviceaccounts", "jobs.batch",
    "deployments.apps", "statefulsets.apps", "roles.rbac.authorization.k8s.io", "persistentvolumeclaims",
    "events",
)  # fmt: skip


def review(namespace: str, account: str, verb: str, resource: str) -> dict[str, object]:
    """What `kubectl auth can-i` asks the API server."""
    kind, _, part = resource.partition("/")
    name, _, group = kind.partition(".")
    asked = {
        "namespace": namespace,
        "verb": verb,
        "group": group,
        "resource": name,
        "subresource": part,
    }
    return {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SubjectAccessReview",
        "spec": {"user": account, "resourceAttributes": asked},
    }


def documents(text: str) -> list[dict[str, Any]]:
    """JSON objects that stand one behind the other, as kubectl prints what it creates."""
    decoder, found, at = json.JSONDecoder(), [], 0
    while at < len(text.rstrip()):
        value, end = decoder.raw_decode(text, at)
        found.append(value)
        at = end + len(text[end:]) - len(text[end:].lstrip())
    return found


@pytest.mark.parametrize("component", ALLOWED)
def test_a_service_account_may_do_what_it_must_and_nothing_else(release: Release, component: str) -> None:
    name = component if component == "default" else release.object(component)
    account = f"system:serviceaccount:{release.namespace}:{name}"
    asked = list(product(VERBS, RESOURCES))
    reviews = [review(release.namespace, account, verb, resource) for verb, resource in asked]
    listed = json.dumps({"apiVersion": "v1", "kind": "List", "items": reviews})
    answers = documents(release.kubectl("create", "-f", "-", "-o", "json", stdin=listed))
    allowed = {
        f"{verb} {resource}"
        for (verb, resource), answer in zip(asked, answers, strict=True)
        if answer["status"].get("allowed")
    }
    assert allowed == ALLOWED[component]


def test_the_gateway_reads_its_own_template_and_touches_no_other_namespace(release: Release) -> None:
    account = f"system:serviceaccount:{release.namespace}:{release.object('gateway')}"

    def may(*arguments: str) -> bool:
        said = run("kubectl", "auth", "can-i", *arguments, "--as", account, check=False)
        return said.strip().splitlines()[-1] == "yes"

    template = f"configmap/{release.object('trainer')}"
    assert may("get", template, "-n", release.namespace)
    assert not may("get", f"configmap/{release.name}-stablerep", "-n", release.namespace)
    for verb, resource in (("create", "jobs.batch"), ("list", "pods"), ("create", "services")):
        assert not may(verb, resource, "-n", "default")
        assert not may(verb, resource, "-n", "kube-system")
    assert not may("list", "nodes")
    assert not may("create", "clusterroles.rbac.authorization.k8s.io")


def test_only_the_gateways_pods_have_a_token(release: Release) -> None:
    for component in COMPONENTS:
        for pod in release.pods(component):
            mounts = [m["mountPath"] for c in pod["spec"]["containers"] for m in c.get("volumeMounts", [])]
            has_token = "/var/run/secrets/kubernetes.io/serviceaccount" in mounts
            assert has_token == (component == "gateway"), name_of(pod)


@pytest.mark.parametrize(
    ("component", "metric"),
    [("gateway", "stablerep_queue_depth"), ("generator", "stablerep_images_generated_total")],
)
def test_metrics_and_logs_are_readable(release: Release, component: str, metric: str) -> None:
    pod = release.ready(component)[0]
    with (
        release.forward(f"pod/{pod}", 9100) as address,
        urllib.request.urlopen(f"http://{address}/metrics", timeout=20) as answer,
    ):
        assert f"\n{metric}" in answer.read().decode()
    lines = release.kubectl("logs", pod).splitlines()
    assert lines
    assert all(json.loads(line)["level"] for line in lines if line.startswith("{"))
