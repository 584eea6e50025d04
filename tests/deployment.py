"""What is deployed, as plain data: the compose file with its variables filled in, Dockerfiles, the chart."""

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from tests.paths import ROOT
from tests.tools import tool

CHART = ROOT / "deploy/helm/stablerep"
COMPOSE = ROOT / "docker-compose.yml"
_VARIABLE = re.compile(r"\$\{(\w+)(?:(:?-)([^}]*))?\}")


def compose_file(variables: Mapping[str, str] | None = None) -> dict[str, Any]:
    """The compose file as `docker compose` reads it when only `variables` are set."""
    given = variables or {}

    def fill(found: re.Match[str]) -> str:
        name, operator, default = found.groups()
        value = given.get(name)
        if value is None or (operator == ":-" and not value):
            return default or ""
        return value

    whole: dict[str, Any] = yaml.safe_load(_VARIABLE.sub(fill, COMPOSE.read_text(encoding="utf-8")))
    return whole


def compose_variables() -> dict[str, str]:
    """Every variable of the compose file with its default."""
    found = _VARIABLE.findall(COMPOSE.read_text(encoding="utf-8"))
    return {name: default for name, _, default in found}


@dataclass(frozen=True)
class Dockerfile:
    """The last stage's instructions, and all of them."""

    path: Path
    text: str
    environment: dict[str, str] = field(default_factory=dict)

    def last(self, instruction: str) -> str:
        """What the last `instruction` says."""
        return re.findall(rf"^{instruction} (.*)$", self.text, re.MULTILINE)[-1]

    def exec_form(self, instruction: str) -> list[str]:
        """The words of CMD ["a", "b"] or HEALTHCHECK ... CMD ["a", "b"]."""
        words: list[str] = yaml.safe_load("[" + self.last(instruction).partition("[")[2])
        return words

    @property
    def exposed(self) -> set[int]:
        return {int(port) for port in self.last("EXPOSE").split()}


def dockerfile(name: str) -> Dockerfile:
    """deploy/docker/NAME.Dockerfile with continued lines joined."""
    path = ROOT / f"deploy/docker/{name}.Dockerfile"
    text = path.read_text(encoding="utf-8").replace("\\\n", " ")
    last_stage = text[text.rindex("\nFROM ") :]
    environment = dict(
        pair.split("=", 1)
        for line in re.findall(r"^ENV (.*)$", last_stage, re.MULTILINE)
        for pair in line.split()
    )
    return Dockerfile(path, text, environment)


def helm(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs helm."""
    program = tool("helm")
    return subprocess.run([program, *arguments], capture_output=True, text=True, check=False, timeout=60)


def rendered(*arguments: str) -> list[dict[str, Any]]:
    """The chart's objects."""
    return [each for each in yaml.safe_load_all(_template(arguments)) if each]


@cache
def _template(arguments: tuple[str, ...]) -> str:
    """What helm prints. One that was built from source knows no Kubernetes version, so one is named."""
    done = helm("template", "try", str(CHART), "--kube-version", "1.36.0", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout
