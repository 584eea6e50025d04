"""What the chart makes of runs, autoscalers, weights, monitoring and routes."""

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml

from scripts import chart_readme
from stablerep.runs.config import load_train_config
from stablerep.runs.launchers.kubernetes.manifests import ClusterTemplate, job
from stablerep.runs.spec import Resources, RunSpec
from tests.deployment import CHART, rendered
from tests.kube_types import wrong_fields
from tests.unit.deploy.test_deploy_chart import VALUES, of_kind, run_template, settings_of, workloads


def test_a_run_of_the_chart_is_a_job_that_kubernetes_takes() -> None:
    """The template that the chart writes, completed as the gateway does."""
    for values in VALUES.values():
        pod = run_template(rendered(*values))
        if not pod:
            continue
        train = load_train_config("demo", {"run": "s3://b/runs/r", "datasets": ["s3://b/datasets/d"]})
        resources = Resources(nodes=2, gpus_per_node=2, processes_per_node=2)
        spec = RunSpec(run="r", train=train, resources=resources, launcher="kubernetes")
        made = job(spec, ClusterTemplate("ml", pod), "now 0")
        assert wrong_fields(made) == []
        (container,) = made["spec"]["template"]["spec"]["containers"]
        assert container["resources"]["limits"]["nvidia.com/gpu"] == "2"
        assert pod["spec"]["terminationGracePeriodSeconds"] >= 60


def test_the_gateway_starts_runs_as_the_chart_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    objects = rendered()
    settings = settings_of(objects, "gateway", tmp_path, monkeypatch)
    assert settings.gateway.launcher == "kubernetes"
    (template,) = [each for each in of_kind(objects, "ConfigMap") if "pod.yaml" in each["data"]]
    assert settings.kubernetes.owner == template["metadata"]["name"]
    assert str(settings.kubernetes.pod_template) == "/etc/stablerep/trainer/pod.yaml"
    (role,) = of_kind(objects, "Role")
    assert [rule for rule in role["rules"] if "secrets" in rule["resources"]] == []
    alone = rendered(*VALUES["no-trainer-values"])
    assert of_kind(alone, "Role", "RoleBinding") == []
    assert settings_of(alone, "gateway", tmp_path, monkeypatch).gateway.launcher == "local"


def test_an_autoscaler_looks_at_the_depth_and_the_number_is_its_own() -> None:
    def workers(*values: str) -> dict[str, Any]:
        found = of_kind(rendered(*values), "Deployment")
        return next(each for each in found if each["metadata"]["name"].endswith("-generator"))

    assert of_kind(rendered(), "HorizontalPodAutoscaler", "ScaledObject") == []
    (hpa,) = of_kind(rendered(*VALUES["hpa-values"]), "HorizontalPodAutoscaler")
    assert hpa["spec"]["scaleTargetRef"]["name"] == workers()["metadata"]["name"]
    (metric,) = hpa["spec"]["metrics"]
    assert metric["external"]["metric"] == {
        "name": "sr_depth",
        "selector": {"matchLabels": {"release": "try"}},
    }
    assert metric["external"]["target"] == {"type": "AverageValue", "averageValue": "2"}
    (keda,) = of_kind(rendered(*VALUES["keda-values"]), "ScaledObject")
    assert (keda["spec"]["minReplicaCount"], keda["spec"]["maxReplicaCount"]) == (0, 200)
    (trigger,) = keda["spec"]["triggers"]
    assert trigger["metadata"]["query"] == 'max(stablerep_queue_depth{namespace="default"})'
    assert trigger["metadata"]["activationThreshold"] == "0", "a single shard wakes the first worker"
    for values in ("hpa-values", "keda-values"):
        assert "replicas" not in workers(*VALUES[values])["spec"]


@pytest.mark.parametrize(
    ("values", "volume"),
    [
        ("default", {"emptyDir": {"sizeLimit": "30Gi"}}),
        ("gpu-s3-values", {"persistentVolumeClaim": {"claimName": "models"}}),
        (
            "image-volume-values",
            {"image": {"reference": "registry.example.com/models/sd15:1", "pullPolicy": "IfNotPresent"}},
        ),
        ("store-models-values", {"emptyDir": {"sizeLimit": "40Gi"}}),
    ],
)  # fmt: skip
def test_weights_come_in_four_ways(values: str, volume: dict[str, Any]) -> None:
    pod = workloads(rendered(*VALUES[values]))["generator"]
    (found,) = [each for each in pod["volumes"] if each["name"] == "models"]
    assert found == {"name": "models", **volume}
    fetch = pod.get("initContainers", [])
    assert bool(fetch) == (values == "store-models-values")
    for container in fetch:
        assert importlib.util.find_spec(container["command"][2])
        assert container["command"][3:] == ["models/", "/models"]
    home = {each["name"]: each.get("value") for each in pod["containers"][0]["env"]}["HF_HOME"]
    assert home == ("/models" if values in ("default", "gpu-s3-values") else "/tmp/hub")


def test_alerts_and_dashboards_are_those_of_the_files() -> None:
    objects = rendered(*VALUES["monitoring-values"])
    (rule,) = of_kind(objects, "PrometheusRule")
    assert rule["spec"] == yaml.safe_load((CHART / "files/alerts.yml").read_text(encoding="utf-8"))
    (boards,) = [
        each for each in of_kind(objects, "ConfigMap") if each["metadata"]["name"].endswith("-dashboards")
    ]
    files = {
        file.name: file.read_text(encoding="utf-8") for file in (CHART / "files/dashboards").glob("*.json")
    }
    assert {name: json.loads(text) for name, text in boards["data"].items()} == {
        name: json.loads(text) for name, text in files.items()
    }
    assert boards["metadata"]["labels"]["grafana_dashboard"] == "1"


def test_pods_roll_when_their_settings_change() -> None:
    def sums(*values: str) -> dict[str, dict[str, str]]:
        return {
            each["metadata"]["name"]: each["spec"]["template"]["metadata"].get("annotations", {})
            for each in of_kind(rendered(*values), "Deployment")
        }

    assert sums() == sums("--set", "auth.tokensSecret=")
    changed = sums("--set", "settings.log_level=DEBUG")
    assert all(changed[name] != annotations for name, annotations in sums().items())
    resized = sums("--set", "trainer.sharedMemory=9Gi")
    assert [name for name in resized if resized[name] != sums()[name]] == ["try-stablerep-gateway"]


@pytest.mark.parametrize("name", ["default", "gpu-s3-values"])
def test_what_is_rendered_is_what_was_looked_at(name: str) -> None:
    """A change of the chart shows its objects in the review; Secrets, which are random, are left out."""
    objects = [each for each in rendered(*VALUES[name]) if each["kind"] != "Secret"]
    text = yaml.safe_dump_all(objects, sort_keys=True, width=120)
    file = Path(__file__).parent / "golden" / f"{name}.yaml"
    if os.environ.get("STABLEREP_TEST_RENEW_GOLDEN"):
        file.write_text(text, encoding="utf-8")
    assert file.read_text(encoding="utf-8") == text, (
        "look at it; then STABLEREP_TEST_RENEW_GOLDEN=1 renews it"
    )


def test_every_value_is_described_and_stands_in_the_readme() -> None:
    text = (CHART / "values.yaml").read_text(encoding="utf-8")
    described = chart_readme.descriptions(text)
    values = dict(chart_readme.leaves(yaml.safe_load(text), described))
    assert [key for key in values if key not in described] == []
    assert (CHART / "README.md").read_text(encoding="utf-8") == chart_readme.renewed(), (
        "run: python scripts/chart_readme.py"
    )
