"""The objects of a run in a cluster: fields that Kubernetes knows, restarts as promised, names that fit."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.trainer.exits import CANNOT, STOPPED
from stablerep.config.names import DATASET_NAME
from stablerep.errors import InvalidInput
from stablerep.runs.config import load_train_config
from stablerep.runs.launchers.kubernetes import manifests
from stablerep.runs.launchers.kubernetes.manifests import ClusterTemplate, job, job_name, jobset, service
from stablerep.runs.spec import Resources, RunSpec
from tests.kube_types import wrong_fields

POD: dict[str, Any] = {
    "metadata": {"labels": {"app.kubernetes.io/component": "trainer"}},
    "spec": {
        "containers": [
            {"name": "sidecar", "image": "s"},
            {"name": "trainer", "image": "t", "resources": {"limits": {"memory": "1Gi"}}, "env": []},
        ]
    },
}
OWNER = {"apiVersion": "v1", "kind": "ConfigMap", "name": "sr-trainer", "uid": "u1"}
START = "2026-11-28T00:00:00+00:00 0"
TEMPLATE = ClusterTemplate("ml", POD, OWNER)


def spec(nodes: int = 4, gpus: int = 8, **more: Any) -> RunSpec:
    train = load_train_config(
        "demo",
        {
            "run": "s3://b/runs/big",
            "datasets": ["s3://b/datasets/d"],
            "views_per_batch": 4 * 4 * 8,
            "method.images_per_caption": 4,
            "steps": 9,
        },
    )
    resources = Resources(nodes=nodes, gpus_per_node=gpus, processes_per_node=gpus or 1)
    return RunSpec(run="big", train=train, resources=resources, launcher="kubernetes", **more)


def trainer_of(pod: dict[str, Any]) -> dict[str, Any]:
    return next(each for each in pod["spec"]["containers"] if each["name"] == "trainer")


def test_a_job_has_only_fields_that_kubernetes_knows() -> None:
    for made in (spec(), spec(1, 0, deadline_seconds=60, queue="team")):
        assert wrong_fields(job(made, TEMPLATE, START)) == []
    assert wrong_fields(service(spec(), TEMPLATE, OWNER)) == []
    assert wrong_fields(jobset(spec(deadline_seconds=60, queue="team"), TEMPLATE, START)) == []


def test_four_machines_of_eight_gpus_become_four_pods_that_find_the_first() -> None:
    made = job(spec(), TEMPLATE, START)
    assert made["metadata"] == {
        "name": "run-big",
        "namespace": "ml",
        "labels": {"app.kubernetes.io/component": "trainer"},
        "annotations": {"stablerep.io/run": "big", "stablerep.io/start": START},
        "ownerReferences": [OWNER],
    }
    assert made["spec"]["completionMode"] == "Indexed"
    assert (made["spec"]["completions"], made["spec"]["parallelism"]) == (4, 4)
    pod = made["spec"]["template"]
    trainer = trainer_of(pod)
    assert pod["spec"]["subdomain"] == "run-big"
    assert trainer["command"] == ["python", "-u", "-m", "services.trainer.launch", "--run", "big"]
    assert trainer["resources"]["limits"] == {"memory": "1Gi", "nvidia.com/gpu": "8"}
    environment = {each["name"]: each for each in trainer["env"]}
    assert environment["STABLEREP_RENDEZVOUS"]["value"] == "run-big-0.run-big"
    assert environment["POD_IP"]["valueFrom"] == {"fieldRef": {"fieldPath": "status.podIP"}}
    found = service(spec(), TEMPLATE, OWNER)
    assert found["spec"]["clusterIP"] == "None"
    assert found["spec"]["selector"] == {"batch.kubernetes.io/job-name": "run-big"}
    assert found["metadata"]["ownerReferences"] == [OWNER]


def test_the_template_is_left_as_it_was() -> None:
    job(spec(), TEMPLATE, START)
    assert trainer_of(POD)["env"] == []
    assert "command" not in trainer_of(POD)


def test_exit_statuses_decide_what_is_tried_again() -> None:
    made = job(spec(max_restarts=3), TEMPLATE, START)["spec"]
    assert made["backoffLimit"] == 3
    assert made["template"]["spec"]["restartPolicy"] == "Never"
    rules = [
        (rule["action"], rule.get("onExitCodes", {}).get("values"))
        for rule in made["podFailurePolicy"]["rules"]
    ]
    assert rules == [("Ignore", None), ("FailJob", [CANNOT]), ("Ignore", [STOPPED])]
    assert (manifests.CANNOT, manifests.STOPPED) == (CANNOT, STOPPED)


def test_ttl_deadline_and_queue_are_the_runs_own() -> None:
    made = job(spec(ttl_seconds=60, deadline_seconds=3600, queue="team"), TEMPLATE, START)
    assert made["spec"]["ttlSecondsAfterFinished"] == 60
    assert made["spec"]["activeDeadlineSeconds"] == 3600
    assert made["spec"]["suspend"] is True, "Kueue starts it"
    assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
    plain = job(spec(), TEMPLATE, START)
    assert "activeDeadlineSeconds" not in plain["spec"]
    assert plain["spec"]["suspend"] is False


def test_a_jobset_restarts_all_machines_together_and_names_the_first() -> None:
    made = jobset(spec(deadline_seconds=60), TEMPLATE, START)["spec"]
    assert made["failurePolicy"]["maxRestarts"] == 10
    (replicated,) = made["replicatedJobs"]
    inner = replicated["template"]["spec"]
    assert inner["backoffLimit"] == 0
    assert inner["activeDeadlineSeconds"] == 60
    assert "subdomain" not in inner["template"]["spec"], "JobSet sets it"
    environment = {each["name"]: each.get("value") for each in trainer_of(inner["template"])["env"]}
    assert environment["STABLEREP_RENDEZVOUS"] == "run-big-node-0-0.run-big"
    assert made["network"]["subdomain"] == "run-big"


def test_a_template_without_the_container_is_refused() -> None:
    pod = {"spec": {"containers": [{"name": "main", "image": "x"}]}}
    with pytest.raises(InvalidInput, match="pod_template: has no container named trainer"):
        job(spec(), ClusterTemplate("ml", pod), START)


@given(st.from_regex(DATASET_NAME, fullmatch=True))
def test_every_runs_name_becomes_an_objects_name(run: str) -> None:
    name = job_name(run)
    assert len(f"{name}-node-0-1023-abcde") <= 63 or len(f"{name}-1023") <= 63
    assert name[:1].isalpha()
    assert name[-1].isalnum()
    assert all(c.isdigit() or ("a" <= c <= "z") or c == "-" for c in name)


@given(st.sets(st.from_regex(DATASET_NAME, fullmatch=True), min_size=2, max_size=20))
def test_names_of_runs_stay_apart(runs: set[str]) -> None:
    assert len({job_name(run) for run in runs}) == len(runs)
