"""Prometheus' configuration and alerts, as its own tool reads them and runs them over given histories."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.paths import ROOT
from tests.tools import tool

ALERTS = ROOT / "deploy/helm/stablerep/files/alerts.yml"
CONFIGURATION = ROOT / "deploy/prometheus/prometheus.yml"


@pytest.fixture(scope="module")
def promtool() -> str:
    return str(tool("promtool"))


def test_prometheus_takes_the_configuration(promtool: str, tmp_path: Path) -> None:
    for folder, file in (
        ("prometheus", CONFIGURATION),
        ("stablerep", ALERTS),
    ):  # as the compose file mounts them
        (tmp_path / folder).mkdir()
        shutil.copy(file, tmp_path / folder)
    command = [promtool, "check", "config", str(tmp_path / "prometheus" / "prometheus.yml")]
    checked = subprocess.run(command, capture_output=True, text=True)
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "rules found" in checked.stdout


def test_alerts_fire_when_they_should_and_not_before(promtool: str, tmp_path: Path) -> None:
    shutil.copy(ALERTS, tmp_path)
    shutil.copy(Path(__file__).with_name("alerts_test.yml"), tmp_path)
    command = [promtool, "test", "rules", "alerts_test.yml"]
    tested = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path)
    assert tested.returncode == 0, tested.stdout + tested.stderr
