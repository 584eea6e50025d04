"""Schemas of other projects' kinds, as far as we write them: from their public API documentation.

A mapping stands for an object with these fields and no others; a list of one for a list of such; a text for a
type of `tests/kube_types.py`. KEDA's ScaledObject v1alpha1, Prometheus Operator v1, cert-manager v1, JobSet
v1alpha2, GRPCRoute v1 of the Gateway API. Kueue is a label and `suspend` on a Job or JobSet.
"""

from typing import Any

_SELECTOR = "V1LabelSelector"
_ENDPOINT = {"port": "str", "path": "str", "interval": "str", "scrapeTimeout": "str", "scheme": "str"}
CUSTOM: dict[tuple[str, str], Any] = {
    ("keda.sh/v1alpha1", "ScaledObject"): {
        "scaleTargetRef": {"apiVersion": "str", "kind": "str", "name": "str"},
        "pollingInterval": "int",
        "cooldownPeriod": "int",
        "minReplicaCount": "int",
        "maxReplicaCount": "int",
        "advanced": {
            "restoreToOriginalReplicaCount": "bool",
            "horizontalPodAutoscalerConfig": {"name": "str", "behavior": "V2HorizontalPodAutoscalerBehavior"},
        },
        "triggers": [
            {
                "type": "str",
                "name": "str",
                "metricType": "str",
                "metadata": "dict[str, str]",
                "authenticationRef": {"name": "str", "kind": "str"},
            }
        ],
    },
    ("monitoring.coreos.com/v1", "ServiceMonitor"): {
        "jobLabel": "str",
        "selector": _SELECTOR,
        "endpoints": [_ENDPOINT],
    },
    ("monitoring.coreos.com/v1", "PodMonitor"): {
        "jobLabel": "str",
        "selector": _SELECTOR,
        "podMetricsEndpoints": [_ENDPOINT],
    },
    ("monitoring.coreos.com/v1", "PrometheusRule"): {
        "groups": [
            {
                "name": "str",
                "interval": "str",
                "rules": [
                    {
                        "alert": "str",
                        "record": "str",
                        "expr": "str",
                        "for": "str",
                        "labels": "dict[str, str]",
                        "annotations": "dict[str, str]",
                    }
                ],
            }
        ]
    },
    ("cert-manager.io/v1", "Certificate"): {
        "secretName": "str",
        "issuerRef": {"name": "str", "kind": "str", "group": "str"},
        "dnsNames": "list[str]",
        "usages": "list[str]",
        "privateKey": {"algorithm": "str", "size": "int", "rotationPolicy": "str"},
    },
    ("gateway.networking.k8s.io/v1", "GRPCRoute"): {
        "parentRefs": [
            {"group": "str", "kind": "str", "name": "str", "namespace": "str", "sectionName": "str"}
        ],
        "hostnames": "list[str]",
        "rules": [{"backendRefs": [{"name": "str", "port": "int", "weight": "int"}]}],
    },
    ("jobset.x-k8s.io/v1alpha2", "JobSet"): {
        "suspend": "bool",
        "ttlSecondsAfterFinished": "int",
        "network": {"enableDNSHostnames": "bool", "subdomain": "str", "publishNotReadyAddresses": "bool"},
        "failurePolicy": {
            "maxRestarts": "int",
            "rules": [{"name": "str", "action": "str", "onJobFailureReasons": "list[str]"}],
        },
        "replicatedJobs": [{"name": "str", "replicas": "int", "template": "V1JobTemplateSpec"}],
    },
}
"""The schema of each kind's `spec`."""
