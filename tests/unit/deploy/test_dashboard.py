"""Dashboard and alerts ask only for metrics, labels and label values that our processes export."""

import json
import re
from collections.abc import Iterable, Iterator

import prometheus_client
import pytest
import yaml
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

import services.gateway.runs.controller
import services.generator.metrics
import services.process.loops
import services.trainer.metrics
from services.gateway.queue_metrics import QueueCollector
from services.gateway.server import SERVICES
from services.health.single_flight import SingleFlightCall
from services.rpc.metrics import MetricsInterceptor
from stablerep.queue.states import JobState
from stablerep.queue.stats import JobBacklog, QueueStats
from tests.paths import ROOT
from tests.promql import Matcher, Reading, grouped_labels, readings

DASHBOARD = ROOT / "deploy/helm/stablerep/files/dashboards/stablerep.json"
ALERTS = ROOT / "deploy/helm/stablerep/files/alerts.yml"
OPERATIONS = ROOT / "docs/operations.md"
OF_PROMETHEUS = {"instance", "job"}
"""Labels that Prometheus puts on whatever it scrapes."""
OPEN_LABELS = {"grpc_code", "grpc_method", "grpc_service", "dataset", "run", "version", "python", "le"}
"""Labels whose values are not all there from the start."""

Series = dict[str, list[dict[str, str]]]


@pytest.fixture(scope="module")
def exported() -> Series:
    """Labels of every series of the three processes, by name, as a scrape reads them."""
    MetricsInterceptor(SERVICES)
    callback = services.trainer.metrics.PrometheusCallback()
    callback.on_start("run", 0, 1)
    callback.on_metrics({"learning_rate": 0.1})
    services.gateway.runs.controller.measure_runs({"run": 1}, queued=1, running=1)
    stats = QueueStats(
        jobs=(JobBacklog("shoes", JobState.RUNNING, waiting=1, leased=1, done=1, dead=1),),
        job_states=dict.fromkeys(JobState, 1),
        dead_shards=1,
        oldest_lease_seconds=1.0,
        busy_workers=1,
        idle_workers=1,
        errors=1,
        leases_lost=1,
        dead_lettered=1,
        planned=4,
    )
    queue = CollectorRegistry()
    queue.register(QueueCollector(lambda: stats, SingleFlightCall[object]("the store", lambda: True)))
    found: Series = {"up": [{}]}
    for registry in (prometheus_client.REGISTRY, queue):
        for family in text_string_to_metric_families(generate_latest(registry).decode()):
            for sample in family.samples:
                found.setdefault(sample.name, []).append(sample.labels)
    return found


def dashboard() -> dict:
    return json.loads(DASHBOARD.read_text())


def dashboard_expressions() -> list[str]:
    return [target["expr"] for panel in dashboard()["panels"] for target in panel.get("targets", [])]


def alerts() -> list[dict]:
    return [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]


EXPRESSIONS = [*dashboard_expressions(), *(rule["expr"] for rule in alerts())]


def problems(expression: str, exported: Series) -> Iterator[str]:
    """What the expression asks for that nobody exports."""
    read = readings(expression)
    known: set[str] = set(OF_PROMETHEUS)
    for reading in read:
        if reading.metric not in exported:
            yield f"no metric {reading.metric}"
            continue
        labels = {label for series in exported[reading.metric] for label in series}
        known |= labels
        for matcher in reading.matchers:
            if matcher.label not in labels | OF_PROMETHEUS:
                yield f"{reading.metric} has no label {matcher.label}"
            elif matcher.label not in OPEN_LABELS | OF_PROMETHEUS:
                yield from _unmatched(reading.metric, matcher, exported[reading.metric])
    yield from (f"no label {label}" for label in grouped_labels(expression) - known)


def _unmatched(metric: str, matcher: Matcher, series: Iterable[dict[str, str]]) -> Iterator[str]:
    values = {labels.get(matcher.label, "") for labels in series}
    for wanted in matcher.value.split("|") if "~" in matcher.operator else [matcher.value]:
        if not any(re.fullmatch(wanted, value) for value in values):
            yield f"{metric} has no {matcher.label} {wanted}"


def test_expressions_are_found() -> None:
    assert len(dashboard_expressions()) > 30
    assert len(alerts()) >= 8


@pytest.mark.parametrize("expression", EXPRESSIONS)
def test_an_expression_asks_only_for_what_is_exported(expression: str, exported: Series) -> None:
    assert readings(expression)
    assert not list(problems(expression, exported))


@pytest.mark.parametrize(
    ("expression", "problem"),
    [
        ("sum(stablerep_queue_dept)", "no metric stablerep_queue_dept"),
        ('stablerep_shards_total{result="done"}', "stablerep_shards_total has no label result"),
        ('stablerep_shards_total{outcome=~"done|gone"}', "stablerep_shards_total has no outcome gone"),
        ("sum by (stages) (rate(stablerep_stage_seconds_sum[5m]))", "no label stages"),
    ],
)
def test_a_wrong_name_is_found(expression: str, problem: str, exported: Series) -> None:
    assert list(problems(expression, exported)) == [problem]


def test_names_are_read_out_of_an_expression() -> None:
    text = 'max by (a, b) (increase(x_total{c="d", e=~"f|g"}[5m])) > 0 and 1e3 * absent(y) offset 5m'
    matchers = (Matcher("c", "=", "d"), Matcher("e", "=~", "f|g"))
    assert readings(text) == [Reading("x_total", matchers), Reading("y")]
    assert grouped_labels(text) == {"a", "b"}


def test_panels_are_laid_out_without_overlaps_and_read_the_chosen_source() -> None:
    taken: set[tuple[int, int]] = set()
    panels = dashboard()["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    for panel in panels:
        place = panel["gridPos"]
        cells = {
            (x, y)
            for x in range(place["x"], place["x"] + place["w"])
            for y in range(place["y"], place["y"] + place["h"])
        }
        assert not cells & taken, panel["title"]
        assert place["x"] + place["w"] <= 24
        taken |= cells
        for target in panel.get("targets", []):
            assert target["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
    assert [each["name"] for each in dashboard()["templating"]["list"]] == ["datasource"]


def ours(exported: Series) -> set[str]:
    """Names of our metrics without what Prometheus' libraries add to those of histograms."""
    names = {name for name in exported if name.startswith(("stablerep_", "grpc_server_"))}
    return {re.sub(r"(_seconds)_(bucket|sum|count)$", r"\1", name) for name in names}


def test_the_docs_table_lists_every_metric_with_its_labels_and_no_other(exported: Series) -> None:
    rows = re.findall(
        r"^\| `((?:stablerep|grpc_server)_\w+)` \|[^|]*\|([^|]*)\|", OPERATIONS.read_text(), re.M
    )
    assert sorted(name for name, _ in rows) == sorted(ours(exported))
    for name, labels in rows:
        series = exported.get(name) or exported[f"{name}_bucket"]
        wanted = {label for each in series for label in each} - {"le"}
        assert set(re.findall(r"`(\w+)`", labels)) == wanted, name


def test_every_alert_says_what_to_do_in_the_docs() -> None:
    text = OPERATIONS.read_text()
    for rule in alerts():
        assert f"### {rule['alert']}\n" in text
        assert rule["labels"]["severity"] in ("critical", "warning")
        assert rule["annotations"]["summary"]
