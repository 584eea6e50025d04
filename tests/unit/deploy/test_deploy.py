"""The compose file and the Dockerfiles say what the code reads: commands, ports, environment, probes."""

import importlib.util
import json
import os
import re
import subprocess
import sys
import tomllib
from typing import Any

import pytest
import yaml

from services.health.http import serve_probes
from services.trainer.run_process import STOP_SECONDS
from stablerep.config.recipe import load_preset
from stablerep.config.settings import Settings, load_settings
from tests.deployment import Dockerfile, compose_file, compose_variables, dockerfile
from tests.paths import ROOT
from tests.tools import tool

OURS = {"gateway": "gateway", "generator": "generator", "generator-gpu": "generator", "trainer": "trainer"}
"""Service of the compose file -> its image's Dockerfile."""
SERVERS = [name for name in OURS if name != "trainer"]
"""Those that serve gRPC."""
EVERY_FILE = ["gateway", "generator", "trainer"]


def service(name: str) -> dict[str, Any]:
    found: dict[str, Any] = compose_file()["services"][name]
    return found


def settings_of(name: str, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """What the process of a service reads from its environment. Raises InvalidInput for an unknown key."""
    for variable, value in (dockerfile(OURS[name]).environment | service(name)["environment"]).items():
        if variable.startswith("STABLEREP_"):
            monkeypatch.setenv(variable, value)
    return load_settings()


def process_settings(name: str, settings: Settings) -> Any:
    parts = {"gateway": settings.gateway, "trainer": settings.trainer}
    return parts.get(name, settings.generator)


def port(address: str) -> int:
    return int(address.rpartition(":")[2])


def command(name: str) -> list[str]:
    return list(service(name).get("command") or dockerfile(OURS[name]).exec_form("CMD"))


def is_program(module: str) -> bool:
    """Whether `python -m MODULE` runs something: a package with __main__.py, or a module."""
    found = importlib.util.find_spec(module)
    if found is not None and found.submodule_search_locations:
        found = importlib.util.find_spec(f"{module}.__main__")
    return found is not None and found.origin is not None


@pytest.mark.parametrize("name", OURS)
def test_command_of_a_service_is_a_module_that_can_be_run(name: str) -> None:
    assert command(name)[:2] == ["python", "-m"]
    assert is_program(command(name)[2])


@pytest.mark.parametrize("name", OURS)
def test_environment_of_a_service_is_read_by_the_settings(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = settings_of(name, monkeypatch)
    services = compose_file()["services"]
    assert settings.store_url.startswith("s3://")
    assert settings.redis_url.split("//")[1].split(":")[0] in services
    assert settings.s3.endpoint == "http://minio:9000"
    assert settings.s3.access_key == services["minio"]["environment"]["MINIO_ROOT_USER"]
    assert settings.s3.secret_key == services["minio"]["environment"]["MINIO_ROOT_PASSWORD"]


@pytest.mark.parametrize("name", SERVERS)
def test_ports_of_a_service_are_those_its_process_listens_on(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = process_settings(name, settings_of(name, monkeypatch))
    image = dockerfile(OURS[name])
    assert {port(settings.address), port(settings.metrics_address)} == image.exposed
    published = [int(text.split(":")[-1]) for text in service(name)["ports"]]
    assert published == [port(settings.address)]
    assert settings.address.startswith("0.0.0.0:")  # loopback of a container is reached by nobody
    assert image.exec_form("HEALTHCHECK")[-1] == f"127.0.0.1:{port(settings.metrics_address)}"


def test_a_trainer_exposes_its_metrics_and_has_time_for_a_checkpoint(monkeypatch: pytest.MonkeyPatch) -> None:
    address = settings_of("trainer", monkeypatch).trainer.metrics_address
    assert dockerfile("trainer").exposed == {port(address)}
    assert int(service("trainer")["stop_grace_period"].removesuffix("s")) >= STOP_SECONDS + 20


@pytest.mark.parametrize("name", SERVERS)
def test_a_service_is_given_longer_to_stop_than_its_process_takes(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grace = process_settings(name, settings_of(name, monkeypatch)).grace_seconds
    assert int(service(name)["stop_grace_period"].removesuffix("s")) >= grace + 5


@pytest.mark.parametrize("name", ["generator", "generator-gpu"])
def test_a_worker_loads_a_preset_that_there_is(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_preset(settings_of(name, monkeypatch).generator.preload, {}).recipe.digest


def test_the_console_serves_where_its_port_is_and_asks_the_gateway(monkeypatch: pytest.MonkeyPatch) -> None:
    console = service("console")
    for variable, value in console["environment"].items():
        monkeypatch.setenv(variable, value)
    own = load_settings().console
    assert console["command"] == ["python", "-m", "services.console"]
    assert is_program("services.console")
    assert console["ports"][0].endswith(f":{port(own.address)}")
    assert f":{port(own.address)}/healthz" in console["healthcheck"]["test"][-1]
    host, _, at = own.gateway.partition(":")
    assert service(host)["environment"]["STABLEREP_GATEWAY__ADDRESS"].endswith(f":{at}")
    assert own.anonymous  # as the gateway's own calls are; with tokens nobody is
    text = (ROOT / "deploy/docker/compose.tokens.yml").read_text(encoding="utf-8")
    tokens = yaml.safe_load(text)["services"]["console"]["environment"]
    assert tokens == {"STABLEREP_CONSOLE__ANONYMOUS": "false"}


@pytest.mark.parametrize("name", SERVERS)
def test_with_tokens_nobody_comes_in_without_one(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "deploy/docker/compose.tokens.yml").read_text(encoding="utf-8")
    added = yaml.safe_load(text)["services"][name]
    settings_of(name, monkeypatch)
    for variable, value in added["environment"].items():
        monkeypatch.setenv(variable, value)
    auth = load_settings().auth
    assert auth.anonymous == ""
    assert str(auth.tokens_file).startswith(added["volumes"][0].rsplit(":", 2)[1] + "/")


def test_prometheus_looks_where_the_processes_tell_their_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    text = (ROOT / "deploy/prometheus/prometheus.yml").read_text(encoding="utf-8")
    looked_at = {
        (host, config["port"])
        for job in yaml.safe_load(text)["scrape_configs"]
        for config in job["dns_sd_configs"]
        for host in config["names"]
    }
    told = {
        (name, port(process_settings(name, settings_of(name, monkeypatch)).metrics_address)) for name in OURS
    }
    assert looked_at == told


def test_every_port_is_published_on_this_machine_alone() -> None:
    for name, each in compose_file()["services"].items():
        for text in each.get("ports", []):
            assert text.startswith("127.0.0.1:"), name


def test_every_image_is_named_by_a_variable_with_a_fixed_version() -> None:
    images = {name: each["image"] for name, each in compose_file()["services"].items()}
    text = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    named = re.findall(r"^ *image: (\$\{\w+_IMAGE:-.*)$", text, re.MULTILINE)
    assert len(set(named)) == len(set(images.values()))
    for image in images.values():
        assert re.search(r":[^/:]+$", image), image
        assert not image.endswith(":latest")


def test_whoever_is_waited_for_has_a_health_check() -> None:
    services = compose_file()["services"]
    for name, each in services.items():
        for other, how in each.get("depends_on", {}).items():
            assert how == {"condition": "service_healthy"}, name
            assert "healthcheck" in services[other] or other in OURS


def test_what_a_page_sends_is_spooled_on_disk() -> None:
    console = compose_file()["services"]["console"]
    assert console["tmpfs"] == []
    assert "/tmp" in console["volumes"]


def test_what_torch_builds_for_a_gpu_may_be_loaded() -> None:
    for name in ("generator", "generator-gpu", "trainer"):
        (temporary,) = compose_file()["services"][name]["tmpfs"]
        assert temporary == "/tmp:mode=1777,exec", "an engine mounts it with noexec otherwise"
    compilers = [
        re.findall(r"^ARG COMPILER=.*\nRUN .*\$COMPILER.*$", dockerfile(name).text, re.MULTILINE)
        for name in ("generator", "trainer")
    ]
    assert compilers[0] == compilers[1] != [], "one layer of both"


def test_bind_mounts_are_files_of_this_repository() -> None:
    for each in compose_file()["services"].values():
        for text in each.get("volumes", []):
            source, named, _ = text.partition(":")
            if not named:
                assert source == "/tmp", "a volume of the container's own"
            elif source.startswith("."):
                assert (ROOT / source).is_dir(), source
            else:
                assert source in compose_file()["volumes"]


def test_example_of_the_variables_names_each_with_its_default() -> None:
    text = (ROOT / "deploy/docker/env.example").read_text(encoding="utf-8")
    named = dict(re.findall(r"^#?(\w+)=(.*)$", text, re.MULTILINE))
    assert named == compose_variables()


@pytest.mark.parametrize("name", EVERY_FILE)
def test_a_dockerfile_needs_no_buildkit(name: str) -> None:
    text = dockerfile(name).path.read_text(encoding="utf-8")
    assert not re.search(r"RUN --|COPY --(link|parents|chmod)|^# *syntax|<<", text, re.MULTILINE)


@pytest.mark.parametrize("name", EVERY_FILE)
def test_an_image_is_built_in_stages_and_runs_as_a_numbered_user(name: str) -> None:
    image: Dockerfile = dockerfile(name)
    stages = re.findall(r"^FROM (\S+)", image.text, re.MULTILINE)
    assert len(stages) >= 3
    assert stages[0] == stages[-1] == "${BASE}"
    user, group = image.last("USER").split(":")
    assert int(user) > 0
    assert int(group) > 0
    for folder in re.findall(r"^RUN mkdir (\S+)", image.text, re.MULTILINE):  # OpenShift: any user of group 0
        assert f"chown {user}:0 {folder} && chmod 775 {folder}" in image.text
    assert image.environment["OMP_NUM_THREADS"] == "1"
    assert is_program(image.exec_form("CMD")[2])


@pytest.mark.parametrize("name", EVERY_FILE)
def test_an_image_takes_an_extra_that_there_is_at_the_locked_versions(name: str) -> None:
    text = dockerfile(name).text
    extra = re.findall(r"-c requirements.lock '\.\[(\w+)(?:,kubernetes,console)?\]'", text)[0]
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needed = " ".join(project["dependencies"] + project["optional-dependencies"][extra])
    assert ("torch" in needed) == (name != "gateway")
    assert ("torch" in text.replace("without torch", "")) == (name != "gateway")


def test_the_build_context_holds_what_the_dockerfiles_copy_and_nothing_else() -> None:
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    assert "*" in lines
    copied = {
        word
        for name in EVERY_FILE
        for line in re.findall(r"^COPY (?!--)(.*) \S+$", dockerfile(name).text, re.MULTILINE)
        for word in line.split()
    }
    assert copied == allowed
    assert all((ROOT / name).exists() for name in allowed)


def run_health(address: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "services.health", address],
        capture_output=True,
        text=True,
        cwd=ROOT,
        check=False,
    )


def test_health_check_follows_readyz() -> None:
    problem = "the queue server does not answer"
    probes = serve_probes("127.0.0.1:0", ready=lambda: problem, alive=lambda: "", field="x")
    assert probes is not None
    try:
        waiting = run_health(probes.address)
        problem = ""
        ready = run_health(probes.address)
    finally:
        probes.close()
    assert (waiting.returncode, ready.returncode) == (1, 0)
    assert "the queue server does not answer" in waiting.stderr
    assert run_health(probes.address).returncode == 1
    assert run_health("nothing").returncode == 2


def test_docker_compose_takes_the_file() -> None:
    done = subprocess.run(
        [tool("docker-compose"), "--profile", "gpu", "--profile", "dashboards", "config", "--format", "json"],
        cwd=ROOT,
        env={key: value for key, value in os.environ.items() if key not in compose_variables()},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    services = json.loads(done.stdout)["services"]
    ours = compose_file()["services"]
    assert set(services) == set(ours)
    assert {name: each["image"] for name, each in services.items()} == {
        name: each["image"] for name, each in ours.items()
    }
