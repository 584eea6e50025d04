"""A strict check of Kubernetes objects against the types of the official Python client."""

import re
from collections.abc import Iterator
from typing import Any

from kubernetes import client as kube

from tests.custom_kinds import CUSTOM

_PLAIN: dict[str, tuple[type, ...]] = {
    "str": (str,),
    "int": (int,),
    "bool": (bool,),
    "float": (int, float),
    "object": (object,),
    "datetime": (str,),
}
_OBJECT = {"apiVersion": "str", "kind": "str", "metadata": "V1ObjectMeta"}
_CLASSES = {
    ("v1", "ConfigMap"): kube.V1ConfigMap,
    ("v1", "Secret"): kube.V1Secret,
    ("v1", "Service"): kube.V1Service,
    ("v1", "ServiceAccount"): kube.V1ServiceAccount,
    ("apps/v1", "Deployment"): kube.V1Deployment,
    ("apps/v1", "StatefulSet"): kube.V1StatefulSet,
    ("policy/v1", "PodDisruptionBudget"): kube.V1PodDisruptionBudget,
    ("networking.k8s.io/v1", "NetworkPolicy"): kube.V1NetworkPolicy,
    ("networking.k8s.io/v1", "Ingress"): kube.V1Ingress,
    ("rbac.authorization.k8s.io/v1", "Role"): kube.V1Role,
    ("rbac.authorization.k8s.io/v1", "RoleBinding"): kube.V1RoleBinding,
    ("autoscaling/v2", "HorizontalPodAutoscaler"): kube.V2HorizontalPodAutoscaler,
    ("batch/v1", "Job"): kube.V1Job,
    ("v1", "Pod"): kube.V1Pod,
}


def wrong_fields(item: dict[str, Any]) -> list[str]:
    """What an API server would not take: unknown fields and wrong types. KeyError: a kind not known here."""
    kind = (item["apiVersion"], item["kind"])
    if kind in CUSTOM:
        return list(_check_fields(item, {**_OBJECT, "spec": CUSTOM[kind]}, item["kind"]))
    return list(_check(item, _CLASSES[kind].__name__, item["kind"]))


def _check_fields(value: Any, schema: Any, where: str) -> Iterator[str]:
    """A value against a schema of tests/custom_kinds.py."""
    if isinstance(schema, str):
        yield from _check(value, schema, where)
    elif isinstance(schema, list):
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, each in enumerate(value):
            yield from _check_fields(each, schema[0], f"{where}[{number}]")
    elif not isinstance(value, dict):
        yield f"{where} is no mapping"
    else:
        for key, each in value.items():
            if key in schema:
                yield from _check_fields(each, schema[key], f"{where}.{key}")
            else:
                yield f"{where} has no field {key}"


def _check(value: Any, kind: str, where: str) -> Iterator[str]:
    several = re.fullmatch(r"(List|list)\[(.*)\]", kind)
    mapping = re.fullmatch(r"(Dict|dict)\[str, (.*)\]", kind)
    if several:
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, each in enumerate(value):
            yield from _check(each, several[2], f"{where}[{number}]")
    elif mapping:
        if not isinstance(value, dict):
            yield f"{where} is no mapping"
            return
        # Quantities are texts to the client; an API server takes numbers, too.
        inner = "object" if where.endswith((".limits", ".requests")) else mapping[2]
        for key, each in value.items():
            yield from _check(each, inner, f"{where}.{key}")
    elif kind in _PLAIN:
        if not isinstance(value, _PLAIN[kind]) or (kind == "int" and isinstance(value, bool)):
            yield f"{where} is {value!r}, not {kind}"
    else:
        yield from _check_model(value, kind, where)


def _check_model(value: Any, kind: str, where: str) -> Iterator[str]:
    model = getattr(kube, kind)
    if not isinstance(value, dict):
        yield f"{where} is no mapping"
        return
    attributes = {json_name: name for name, json_name in model.attribute_map.items()}
    for key, each in value.items():
        if key not in attributes:
            yield f"{where} has no field {key}"
        else:
            yield from _check(each, model.openapi_types[attributes[key]], f"{where}.{key}")
