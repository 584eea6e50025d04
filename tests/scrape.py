"""What a process of ours tells over HTTP: its probes, and its metrics read as Prometheus would."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

from prometheus_client.parser import text_string_to_metric_families


def get(address: str, path: str) -> tuple[int, str]:
    """Status and body of one request."""
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=10) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def scrape(address: str) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Every series' value, by name and labels."""
    status, text = get(address, "/metrics")
    assert status == 200, text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def value(address: str, name: str, **labels: str) -> float:
    """One series' value; 0 where there is none yet."""
    return scrape(address).get((name, frozenset(labels.items())), 0.0)


def metrics_address(announcement: Path) -> str:
    """host:port of the probes of a process that has announced itself."""
    return str(json.loads(announcement.read_text())["metrics_address"])


def wait_until(condition: Callable[[], Any], seconds: float = 30.0) -> Any:
    """The condition's value once it is true."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen in time"
        time.sleep(0.05)
    return found
