"""The Helm chart, rendered with several sets of values: its pods run what the code reads."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
import yaml
from cryptography.fernet import Fernet

from scripts.chart_schema import OF_THE_CHART, SCHEMA, renewed
from stablerep.config.settings import Settings, load_settings, setting_keys
from stablerep.tokens import digest, parse_tokens
from tests.deployment import CHART, dockerfile, helm, rendered
from tests.kube_types import wrong_fields

VALUES = {"default": [], **{path.stem: ["-f", str(path)] for path in sorted(CHART.glob("ci/*.yaml"))}}
OURS = ("gateway", "generator")
assert len(VALUES) >= 12
every_set = pytest.mark.parametrize("values", VALUES.values(), ids=VALUES)


def of_kind(objects: list[dict[str, Any]], *kinds: str) -> list[dict[str, Any]]:
    return [each for each in objects if each["kind"] in kinds]


def workloads(objects: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Component -> its pod template's spec."""
    return {
        each["metadata"]["labels"]["app.kubernetes.io/component"]: each["spec"]["template"]["spec"]
        for each in of_kind(objects, "Deployment", "StatefulSet")
    }


def settings_file(objects: list[dict[str, Any]]) -> str:
    """What is mounted as settings.yaml."""
    (text,) = [
        each["data"]["settings.yaml"]
        for each in of_kind(objects, "ConfigMap")
        if "settings.yaml" in each["data"]
    ]
    return str(text)


def settings_of(
    objects: list[dict[str, Any]], component: str, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Settings:
    """What the process in a pod reads: its settings file and its environment, secrets included."""
    (folder / "settings.yaml").write_text(settings_file(objects))
    for each in workloads(objects)[component]["containers"][0]["env"]:
        if each["name"] == "STABLEREP_CONFIG":
            assert each["value"] == "/etc/stablerep/settings/settings.yaml"
            monkeypatch.setenv("STABLEREP_CONFIG", str(folder / "settings.yaml"))
        elif each["name"].startswith("STABLEREP_"):
            monkeypatch.setenv(each["name"], each.get("value", "secret"))
    return load_settings()


def test_settings_in_the_values_schema_are_those_of_the_code() -> None:
    text = SCHEMA.read_text(encoding="utf-8")
    assert text == renewed(text), "run: python scripts/chart_schema.py"
    known: list[str] = []
    for name, part in json.loads(text)["properties"]["settings"]["properties"].items():
        known += [f"{name}.{key}" for key in part["properties"]] if "properties" in part else [name]
    left_out = [key for key in setting_keys() if {key, key.split(".")[0]} & OF_THE_CHART]
    assert sorted(known + left_out) == sorted(setting_keys())


@every_set
def test_the_chart_passes_helms_own_checks(values: list[str]) -> None:
    done = helm("lint", str(CHART), "--strict", *values)
    assert done.returncode == 0, done.stdout + done.stderr


@every_set
def test_every_object_is_one_that_kubernetes_takes(values: list[str]) -> None:
    objects = rendered(*values)
    assert objects
    assert [line for each in objects for line in wrong_fields(each)] == []
    names = [(each["kind"], each["metadata"]["name"]) for each in objects]
    assert len(set(names)) == len(names)


def test_a_field_that_kubernetes_does_not_know_is_found() -> None:
    (service, *_) = of_kind(rendered(), "Service")
    service["spec"]["ports"][0]["targetport"] = "grpc"
    service["spec"]["selector"] = "gateway"
    assert sorted(wrong_fields(service)) == [
        "Service.spec.ports[0] has no field targetport",
        "Service.spec.selector is no mapping",
    ]


@every_set
def test_pods_run_under_the_restricted_level(values: list[str]) -> None:
    objects = rendered(*values)
    pods = workloads(objects) | {"test": of_kind(objects, "Pod")[0]["spec"]}
    if template := run_template(objects):
        pods["trainer"] = template["spec"]
    for name, pod in pods.items():
        assert pod["securityContext"]["runAsNonRoot"] is True, name
        assert pod["securityContext"].get("runAsUser", 1) > 0, name
        assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}, name
        has_rights = any(each["metadata"]["name"].endswith(f"-{name}") for each in of_kind(objects, "Role"))
        assert pod["automountServiceAccountToken"] is has_rights, name
        for container in pod["containers"] + pod.get("initContainers", []):
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"], name
            assert container["resources"]["limits"]["memory"], name
            assert any(mount["mountPath"] == "/tmp" for mount in container["volumeMounts"]) or name == "redis"


def run_template(objects: list[dict[str, Any]]) -> dict[str, Any]:
    """The pod of a run, as the gateway reads it; empty where runs are none of the cluster."""
    found = [each["data"]["pod.yaml"] for each in of_kind(objects, "ConfigMap") if "pod.yaml" in each["data"]]
    return yaml.safe_load(found[0]) if found else {}


def test_user_ids_can_be_left_to_the_cluster() -> None:
    def user_ids(*values: str) -> dict[str, set[Any]]:
        keys = ("runAsUser", "runAsGroup", "fsGroup")
        pods = workloads(rendered(*values))
        return {name: {pod["securityContext"].get(key) for key in keys} for name, pod in pods.items()}

    own = {
        "gateway": {10001},
        "console": {10001},
        "generator": {10001},
        "redis": {999},
        "minio": {1000},
    }
    assert user_ids() == own
    assert user_ids(*VALUES["openshift-values"]) == {name: {None} for name in own}
    assert user_ids("--set", "generator.userId=null") == {**own, "generator": {None}}


@every_set
@pytest.mark.parametrize("component", OURS)
def test_a_pods_settings_are_read_and_its_ports_are_those_it_listens_on(
    values: list[str], component: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = rendered(*values)
    settings = settings_of(objects, component, tmp_path, monkeypatch)
    own = settings.gateway if component == "gateway" else settings.generator
    pod = workloads(objects)[component]
    (container,) = pod["containers"]
    ports = {each["name"]: each["containerPort"] for each in container["ports"]}
    assert own.address == f"0.0.0.0:{ports['grpc']}"
    assert own.metrics_address == f"0.0.0.0:{ports['metrics']}"
    assert set(ports.values()) == dockerfile(component).exposed
    assert container["command"] == dockerfile(component).exec_form("CMD")
    assert importlib.util.find_spec(container["command"][-1] + ".__main__")
    for probe, path in (("startup", "/healthz"), ("liveness", "/healthz"), ("readiness", "/readyz")):
        assert container[f"{probe}Probe"]["httpGet"] == {"path": path, "port": "metrics"}
    assert pod["terminationGracePeriodSeconds"] >= own.grace_seconds + 10
    assert settings.store_url.startswith("s3://")
    assert settings.redis_url


@every_set
def test_the_console_reads_its_settings_and_asks_the_chart_s_gateway(
    values: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = rendered(*values)
    settings = settings_of(objects, "console", tmp_path, monkeypatch)
    own = settings.console
    pod = workloads(objects)["console"]
    (container,) = pod["containers"]
    (port,) = container["ports"]
    assert own.address == f"0.0.0.0:{port['containerPort']}"
    assert own.anonymous == (settings.auth.anonymous != "")
    services = {each["metadata"]["name"]: each["spec"] for each in of_kind(objects, "Service")}
    for called, component in ((own.gateway, "gateway"), (own.worker, "generator")):
        name, _, number = called.partition(":")
        assert int(number) in [each["port"] for each in services[name]["ports"]]
        assert services[name]["selector"]["app.kubernetes.io/component"] == component
    mounts = {each["mountPath"]: each["name"] for each in container["volumeMounts"]}
    assert set(mounts.values()) == {each["name"] for each in pod["volumes"]}
    assert own.key_file is not None
    files = [own.key_file, settings.s3.ca_file]
    variables = {each["name"]: each.get("value", "") for each in container["env"]}
    files += [Path(value) for name, value in variables.items() if name.endswith("_FILE")]
    assert all(str(file.parent) in mounts for file in files if file is not None)
    assert ("STABLEREP_CA_FILE" in variables) == (settings.tls.cert_file is not None)
    assert ("STABLEREP_ALLOW_CLEAR_TEXT" in variables) == (settings.tls.cert_file is None)


def test_the_console_s_key_is_one_that_encrypts_and_can_be_ones_own() -> None:
    (secret,) = [
        each for each in of_kind(rendered(), "Secret") if each["metadata"]["name"].endswith("-console")
    ]
    Fernet(secret["stringData"]["key"])
    objects = rendered("--set", "console.keySecret=mine")
    assert not [each for each in of_kind(objects, "Secret") if each["metadata"]["name"].endswith("-console")]
    volumes = workloads(objects)["console"]["volumes"]
    assert {"name": "console", "secret": {"secretName": "mine"}} in volumes
    off = rendered("--set", "console.enabled=false")
    assert "console" not in workloads(off)
    assert not [each for each in off if "console" in each["metadata"]["name"]]


def test_browsers_come_in_by_an_ingress() -> None:
    objects = rendered(
        "--set", "console.ingress.enabled=true,console.ingress.host=rep.test,console.prefix=/rep"
    )
    (ingress,) = of_kind(objects, "Ingress")
    (rule,) = ingress["spec"]["rules"]
    (path,) = rule["http"]["paths"]
    assert (rule["host"], path["path"]) == ("rep.test", "/rep")
    assert path["backend"]["service"] == {"name": "try-stablerep-console", "port": {"name": "http"}}


@every_set
@pytest.mark.parametrize("component", OURS)
def test_files_that_settings_name_are_mounted(
    values: list[str], component: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    objects = rendered(*values)
    settings = settings_of(objects, component, tmp_path, monkeypatch)
    pod = workloads(objects)[component]
    mounts = {each["mountPath"]: each["name"] for each in pod["containers"][0]["volumeMounts"]}
    assert set(mounts.values()) == {each["name"] for each in pod["volumes"]}
    tls = settings.tls
    files = (settings.auth.tokens_file, settings.s3.ca_file, tls.cert_file, tls.key_file, tls.client_ca_file)
    for file in filter(None, files):
        assert str(file.parent) in mounts


@every_set
def test_services_and_policies_select_pods_that_there_are(values: list[str]) -> None:
    objects = rendered(*values)
    pods = [
        each["spec"]["template"]["metadata"]["labels"]
        for each in of_kind(objects, "Deployment", "StatefulSet")
    ]
    if template := run_template(objects):
        pods.append(template["metadata"]["labels"])
    selectors = [each["spec"]["selector"] for each in of_kind(objects, "Service")]
    selectors += [each["spec"]["podSelector"]["matchLabels"] for each in of_kind(objects, "NetworkPolicy")]
    for selector in selectors:
        assert any(selector.items() <= labels.items() for labels in pods), selector


def test_every_pod_is_denied_what_no_policy_allows() -> None:
    policies = of_kind(rendered(), "NetworkPolicy")
    (deny,) = [each for each in policies if each["metadata"]["name"].endswith("-deny")]
    assert deny["spec"]["policyTypes"] == ["Ingress", "Egress"]
    assert "ingress" not in deny["spec"]
    for pod in of_kind(rendered(), "Deployment", "StatefulSet"):
        labels = pod["spec"]["template"]["metadata"]["labels"]
        assert deny["spec"]["podSelector"]["matchLabels"].items() <= labels.items()


def test_the_first_token_is_an_admins_and_only_its_hash_reaches_the_pods() -> None:
    objects = rendered()
    (secret,) = [each for each in of_kind(objects, "Secret") if "tokens.yaml" in each["stringData"]]
    text = secret["stringData"]["token"]
    (token,) = parse_tokens(secret["stringData"]["tokens.yaml"].encode(), "tokens.yaml")
    assert (token.role, token.sha256) == ("admin", digest(text))
    for pod in workloads(objects).values():
        for volume in pod.get("volumes", []):
            if volume.get("secret", {}).get("secretName") == secret["metadata"]["name"]:
                assert volume["secret"]["items"] == [{"key": "tokens.yaml", "path": "tokens.yaml"}]


def test_no_secret_lies_in_the_settings_file() -> None:
    for values in VALUES.values():
        settings = yaml.safe_load(settings_file(rendered(*values)))
        assert set(settings["s3"]) <= {"endpoint", "region", "addressing", "ca_file"}
        assert "redis_url" not in settings


def test_workers_keep_their_number_when_it_is_left_to_others() -> None:
    def replicas(*arguments: str) -> Any:
        (found,) = [
            each
            for each in of_kind(rendered(*arguments), "Deployment")
            if each["metadata"]["name"].endswith("-generator")
        ]
        return found["spec"].get("replicas")

    assert replicas() == 1
    assert replicas("--set", "generator.replicas=null") is None
    assert replicas("--set", "generator.replicas=0") == 0


def test_an_image_volume_wants_a_cluster_that_has_them() -> None:
    done = helm("template", "try", str(CHART), "--kube-version", "1.32.0", *VALUES["image-volume-values"])
    assert "needs Kubernetes 1.33 or newer" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["settings.gateway.planer=3"], "planer"),
        (["settings.redis_url=redis://x"], "redis_url"),
        (["gateway.image.repositry=x"], "repositry"),
        (["auth.anonymous=root"], "anonymous"),
        (["gateway.userId=0"], "userId"),
        (["redis.enabled=false"], "queue.url is missing"),
        (["minio.enabled=false"], "store.url is missing"),
        (["queue.url=redis://x:6379/0"], "redis.enabled=false"),
        (["store.endpoint=http://x"], "minio.enabled=false"),
        (["tls.clientCertificates=true"], "tls.secret"),
        (["tls.secret=a", "tls.certManager.enabled=true"], "exclude each other"),
        (["tls.certManager.enabled=true"], "tls.certManager.issuer.name is missing"),
        (["autoscaling.mode=auto"], "/autoscaling/mode"),
        (["autoscaling.minReplicas=70"], "autoscaling.minReplicas is more than"),
        (["gateway.ingress.enabled=true"], "gateway.ingress.host is missing"),
        (["gateway.grpcRoute.enabled=true"], "gateway.grpcRoute.parentRefs is missing"),
        (
            ["generator.models.existingClaim=a", "generator.models.storePrefix=b/"],
            "exclude each other; name one",
        ),
        (["gateway.image.digest=latest"], "digest"),
        (["trainer.sharedMemory=lots"], "sharedMemory"),
        (["trainer.replicas=3"], "replicas"),
        (["settings.kubernetes.namespace=x"], "kubernetes"),
    ],
)
def test_values_that_cannot_work_are_refused_with_what_to_do(arguments: list[str], said: str) -> None:
    options = [word for each in arguments for word in ("--set", each)]
    done = helm("template", "try", str(CHART), "--kube-version", "1.36.0", *options)
    assert done.returncode != 0
    assert said in done.stderr
