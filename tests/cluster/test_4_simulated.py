"""Fifty GPU workers, a run on 32 GPUs, autoscalers and JobSets: objects and places on simulated nodes."""

import json
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from stablerep.client import Client
from tests.cluster.kube import Release, name_of, run, until
from tests.cluster.test_3_runs import CONFIG, pods_of

pytestmark = pytest.mark.timeout(900)
CRDS = Path(__file__).parent / "crds"
PLACE = ("nodeSelector.type=kwok", "tolerations[0].key=kwok.x-k8s.io/node", "tolerations[0].operator=Exists")


def placed(component: str, *more: str) -> list[str]:
    """Options that put a component's pods on simulated nodes."""
    values = [f"{component}.{each}" for each in PLACE] + list(more)
    return [word for each in values for word in ("--set", each)]


@pytest.fixture(scope="module", autouse=True)
def _simulated(release: Release) -> None:
    if not release.simulated:
        pytest.skip("no simulated nodes: only a cluster brought up by scripts/cluster has them")


@pytest.fixture
def client(release: Release) -> Iterator[Client]:
    with release.client() as client:
        yield client


def test_fifty_workers_of_one_gpu_are_spread_over_the_nodes(release: Release) -> None:
    deployment = f"deployment/{release.object('generator')}"
    release.upgrade(*placed("generator", "generator.gpu.enabled=true", "generator.replicas=null"))
    release.kubectl("scale", deployment, "--replicas=50")
    until("fifty workers are ready", lambda: len(release.ready("generator")) == 50)
    pods = release.pods("generator")
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "1"
    nodes = Counter(pod["spec"]["nodeName"] for pod in pods)
    assert len(nodes) == 8
    assert max(nodes.values()) <= 8, "as many as a node has GPUs"
    release.upgrade(*placed("generator", "generator.gpu.enabled=true", "generator.replicas=null"))
    assert len(release.pods("generator")) == 50, "an upgrade keeps what kubectl scale has set"
    release.kubectl("scale", deployment, "--replicas=0")
    until("none is left", lambda: not release.pods("generator"))


def test_a_run_on_four_nodes_of_eight_gpus(release: Release, client: Client) -> None:
    release.upgrade(*placed("trainer", "generator.replicas=0"))
    config = {**CONFIG, "views_per_batch": 128}
    client.runs.train("big", ["colours"], preset="demo", config=config, nodes=4, gpus_per_node=8)
    pods = until("four pods are placed", lambda: placed_pods(release, "big", 4))
    assert len({pod["spec"]["nodeName"] for pod in pods}) == 4, "eight GPUs are all that a node has"
    job = release.get("job", "run-big")
    for pod in pods:
        (container,) = pod["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "8"
        environment = {each["name"]: each.get("value") for each in container["env"]}
        assert environment["STABLEREP_RENDEZVOUS"] == "run-big-0.run-big"
        assert pod["spec"]["subdomain"] == "run-big"
        (owner,) = pod["metadata"]["ownerReferences"]
        assert (owner["kind"], owner["uid"]) == ("Job", job["metadata"]["uid"])
    indexes = {pod["metadata"]["labels"]["batch.kubernetes.io/job-completion-index"] for pod in pods}
    assert indexes == {"0", "1", "2", "3"}
    (owner,) = job["metadata"]["ownerReferences"]
    assert (owner["kind"], owner["name"]) == ("ConfigMap", release.object("trainer"))
    assert owner["uid"] == release.get("configmap", release.object("trainer"))["metadata"]["uid"]


def test_a_run_that_cannot_be_placed_says_why(release: Release, client: Client) -> None:
    config = {**CONFIG, "views_per_batch": 256}
    client.runs.train("huge", ["colours"], preset="demo", config=config, gpus_per_node=64)
    run = until("it says why", lambda: (r := client.runs.get("huge")) and "nvidia.com/gpu" in r.message and r)
    assert run.state == "QUEUED"
    assert "Unschedulable" in run.message
    client.runs.delete("huge", force=True)
    until("its pods are gone", lambda: not pods_of(release, "huge"))


def test_a_queue_of_kueue_admits_a_run(release: Release, client: Client) -> None:
    client.runs.train("queued", ["colours"], preset="demo", config=CONFIG, queue="team-a")
    job = until("the job is there", lambda: jobs_named(release, "run-queued"))[0]
    assert job["spec"]["suspend"] is True
    assert job["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team-a"
    run = until("it says so", lambda: (r := client.runs.get("queued")) and "suspended" in r.message and r)
    assert "team-a" in run.message
    assert not pods_of(release, "queued")
    client.runs.cancel("queued")
    until("the job is gone", lambda: not jobs_named(release, "run-queued"))


def test_a_cluster_with_jobsets_gets_one(release: Release, client: Client) -> None:
    run("kubectl", "apply", "-f", str(CRDS / "jobset.yaml"))
    try:
        run("kubectl", "wait", "--for=condition=Established", "crd/jobsets.jobset.x-k8s.io", "--timeout=60s")
        until("the gateway has noticed", lambda: jobset_of(release, client, "set"))
        found = release.get("jobset", "run-set")
        (replicated,) = found["spec"]["replicatedJobs"]
        assert replicated["template"]["spec"]["completions"] == 2
        assert not jobs_named(release, "run-set")
        client.runs.cancel("set")
        until("it is gone", lambda: not release.items("jobsets"))
    finally:
        run("kubectl", "delete", "-f", str(CRDS / "jobset.yaml"))


def test_each_mode_of_scaling_has_its_object(release: Release) -> None:
    name = release.object("generator")
    release.upgrade("--set", "autoscaling.mode=hpa", "--set", "autoscaling.minReplicas=1")
    hpa = release.get("hpa", name)
    assert hpa["spec"]["scaleTargetRef"]["name"] == name
    assert hpa["spec"]["metrics"][0]["external"]["metric"]["name"] == "stablerep_queue_depth"
    run("kubectl", "apply", "-f", str(CRDS / "keda.yaml"))
    try:
        run("kubectl", "wait", "--for=condition=Established", "crd/scaledobjects.keda.sh", "--timeout=60s")
        release.upgrade("--set", "autoscaling.mode=keda")
        scaled = release.get("scaledobject", name)
        assert scaled["spec"]["minReplicaCount"] == 0
        assert scaled["spec"]["triggers"][0]["metadata"]["threshold"] == "4"
        assert not release.items("hpa"), "the other mode's object went"
        release.upgrade()
        assert not release.items("scaledobjects")
    finally:
        run("kubectl", "delete", "-f", str(CRDS / "keda.yaml"))


def placed_pods(release: Release, name: str, count: int) -> list[dict[str, Any]]:
    pods = [pod for pod in pods_of(release, name) if pod["spec"].get("nodeName")]
    return pods if len(pods) == count else []


def jobs_named(release: Release, name: str) -> list[dict[str, Any]]:
    return [job for job in release.items("jobs") if name_of(job) == name]


def jobset_of(release: Release, client: Client, name: str) -> bool:
    """Whether a run becomes a JobSet; the gateway looks for the resource every half minute."""
    client.runs.train(name, ["colours"], preset="demo", config=CONFIG, nodes=2)
    until("it has an object", lambda: release.items("jobsets") or jobs_named(release, f"run-{name}"))
    if release.items("jobsets"):
        return True
    client.runs.delete(name, force=True)
    return False


def test_a_quota_makes_a_run_wait_and_not_fail(release: Release, client: Client) -> None:
    quota = {
        "apiVersion": "v1",
        "kind": "ResourceQuota",
        "metadata": {"name": "none"},
        "spec": {"hard": {"count/jobs.batch": "0"}},
    }
    release.kubectl("apply", "-f", "-", stdin=json.dumps(quota))
    until("the quota counts", lambda: release.get("resourcequota", "none").get("status", {}).get("hard"))
    client.runs.train("patient", ["colours"], preset="demo", config=CONFIG)
    run = until("it says why", lambda: (r := client.runs.get("patient")) and "quota" in r.message and r)
    assert run.state == "QUEUED"
    release.kubectl("delete", "resourcequota", "none")
    until("it starts", lambda: jobs_named(release, "run-patient"))
    client.runs.delete("patient", force=True)
