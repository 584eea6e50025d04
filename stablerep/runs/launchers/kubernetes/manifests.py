"""The objects of a run in a cluster, as plain mappings: pure functions of the run and the pod template."""

import hashlib
import re
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any

from stablerep.errors import InvalidInput
from stablerep.runs.spec import RunSpec

Object = dict[str, Any]

CONTAINER = "trainer"
JOB_NAME_LABEL = "batch.kubernetes.io/job-name"
INDEX_LABEL = "batch.kubernetes.io/job-completion-index"
RUN_ANNOTATION = "stablerep.io/run"
START_ANNOTATION = "stablerep.io/start"
"""When the run was created, and how often resumed: a job of an earlier run of that name is another's."""
QUEUE_LABEL = "kueue.x-k8s.io/queue-name"
REPLICATED_JOB = "node"
JOBSET_API = "jobset.x-k8s.io/v1alpha2"
_MAX_NAME = 45  # a pod's name adds the replicated job, its number, the index and five letters: 63 in all
CANNOT, STOPPED = 2, 75
"""Exit statuses of services/trainer/exits.py."""


@dataclass(frozen=True)
class ClusterTemplate:
    """What all runs share: where they go, and what their pods look like.

    Attributes:
        pod: a pod template (`metadata`, `spec`) with a container `trainer`.
        owner: owner reference of the jobs; empty: none.
        gpu_resource: what a pod requests its GPUs as.
    """

    namespace: str
    pod: Object
    owner: Object = field(default_factory=dict)
    gpu_resource: str = "nvidia.com/gpu"


def job_name(run: str) -> str:
    """The run's name where it can be an object's, else what can be taken over of it and a hash."""
    plain = re.sub(r"[^a-z0-9-]", "-", run).strip("-")
    if plain == run and len(run) <= _MAX_NAME:
        return f"run-{run}"
    digest = hashlib.sha256(run.encode()).hexdigest()[:8]
    return f"run-{plain[: _MAX_NAME - 9].strip('-')}-{digest}".replace("--", "-")


def job(spec: RunSpec, template: ClusterTemplate, start: str) -> Object:
    """An Indexed Job, one index a machine."""
    name = job_name(spec.run)
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _metadata(spec, template, start),
        "spec": {
            **_job_spec(spec, template, rendezvous=f"{name}-0.{name}", subdomain=name),
            "backoffLimit": spec.max_restarts,
            "ttlSecondsAfterFinished": spec.ttl_seconds,
            "suspend": bool(spec.queue),
        },
    }


def jobset(spec: RunSpec, template: ClusterTemplate, start: str) -> Object:
    """A JobSet of one Indexed Job: after a failure all machines begin again together."""
    name = job_name(spec.run)
    job_spec = _job_spec(spec, template, rendezvous=f"{name}-{REPLICATED_JOB}-0-0.{name}", subdomain="")
    return {
        "apiVersion": JOBSET_API,
        "kind": "JobSet",
        "metadata": _metadata(spec, template, start),
        "spec": {
            "suspend": bool(spec.queue),
            "ttlSecondsAfterFinished": spec.ttl_seconds,
            "network": {"enableDNSHostnames": True, "subdomain": name, "publishNotReadyAddresses": True},
            "failurePolicy": {
                "maxRestarts": spec.max_restarts,
                "rules": [
                    {
                        "name": "finalFailure",
                        "action": "FailJobSet",
                        "onJobFailureReasons": ["PodFailurePolicy", "DeadlineExceeded"],
                    }
                ],
            },
            "replicatedJobs": [
                {"name": REPLICATED_JOB, "replicas": 1, "template": {"spec": {**job_spec, "backoffLimit": 0}}}
            ],
        },
    }


def service(spec: RunSpec, template: ClusterTemplate, owner: Object) -> Object:
    """The headless service by which the machines of an Indexed Job find the first; goes with `owner`."""
    name = job_name(spec.run)
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {
            "name": name,
            "namespace": template.namespace,
            "labels": _labels(template),
            "ownerReferences": [owner],
        },
        "spec": {
            "clusterIP": "None",
            # The first machine waits for the others before it is ready for anything.
            "publishNotReadyAddresses": True,
            "selector": {JOB_NAME_LABEL: name},
        },
    }


def owner_of(found: Object) -> Object:
    """A reference to an object of the cluster, whose deletion deletes the referring one."""
    return {
        "apiVersion": found["apiVersion"],
        "kind": found["kind"],
        "name": found["metadata"]["name"],
        "uid": found["metadata"]["uid"],
        "controller": found["kind"] == "Job",
        "blockOwnerDeletion": False,
    }


def _metadata(spec: RunSpec, template: ClusterTemplate, start: str) -> Object:
    metadata: Object = {
        "name": job_name(spec.run),
        "namespace": template.namespace,
        "labels": _labels(template),
        "annotations": {RUN_ANNOTATION: spec.run, START_ANNOTATION: start},
    }
    if spec.queue:
        metadata["labels"][QUEUE_LABEL] = spec.queue
    if template.owner:
        metadata["ownerReferences"] = [template.owner]
    return metadata


def _labels(template: ClusterTemplate) -> dict[str, str]:
    return dict(template.pod.get("metadata", {}).get("labels", {}))


def _job_spec(spec: RunSpec, template: ClusterTemplate, *, rendezvous: str, subdomain: str) -> Object:
    nodes = spec.resources.nodes
    job_spec: Object = {
        "completionMode": "Indexed",
        "completions": nodes,
        "parallelism": nodes,
        "podFailurePolicy": {
            "rules": [
                # Nodes that are lost or drained say nothing about the run.
                {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
                {"action": "FailJob", "onExitCodes": _exit_codes(CANNOT)},
                {"action": "Ignore", "onExitCodes": _exit_codes(STOPPED)},
            ]
        },
        "template": _pod(spec, template, rendezvous, subdomain if nodes > 1 else ""),
    }
    if spec.deadline_seconds:
        job_spec["activeDeadlineSeconds"] = spec.deadline_seconds
    return job_spec


def _exit_codes(status: int) -> Object:
    return {"containerName": CONTAINER, "operator": "In", "values": [status]}


def _pod(spec: RunSpec, template: ClusterTemplate, rendezvous: str, subdomain: str) -> Object:
    pod = deepcopy(template.pod)
    annotations = pod.setdefault("metadata", {}).setdefault("annotations", {})
    annotations[RUN_ANNOTATION] = spec.run
    pod["spec"]["restartPolicy"] = "Never"  # as podFailurePolicy demands
    if subdomain:
        pod["spec"]["subdomain"] = subdomain
    container = _trainer(pod)
    container["command"] = ["python", "-u", "-m", "services.trainer.launch", "--run", spec.run]
    environment = container.setdefault("env", [])
    environment.append({"name": "STABLEREP_RENDEZVOUS", "value": rendezvous})
    environment.append({"name": "POD_IP", "valueFrom": {"fieldRef": {"fieldPath": "status.podIP"}}})
    if spec.resources.gpus_per_node:
        limits = container.setdefault("resources", {}).setdefault("limits", {})
        limits[template.gpu_resource] = str(spec.resources.gpus_per_node)
    return pod


def _trainer(pod: Object) -> Object:
    for container in pod["spec"]["containers"]:
        if container["name"] == CONTAINER:
            found: Object = container
            return found
    raise InvalidInput(f"has no container named {CONTAINER}", field="kubernetes.pod_template")
