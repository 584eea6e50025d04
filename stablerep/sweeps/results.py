"""What a sweep has measured so far: the scores of every point, from the records beside the runs."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from stablerep.errors import InvalidInput
from stablerep.runs.probe_records import ProbeRecord, parse_record
from stablerep.shards.layout import run_key
from stablerep.storage import Store
from stablerep.sweeps.plan import Plan
from stablerep.sweeps.spec import ProbeSpec

_WORDS = {"seeds", "title", "about"}
_PACKAGES = ("stablerep", "torch", "diffusers", "timm", "numpy")

Scores = Mapping[str, float]
"""Accuracies, 0 to 1, by name."""


@dataclass(frozen=True)
class Summary:
    """The seeds of one combination of labels: each seed's score, and what failed."""

    labels: dict[str, str]
    scores: dict[str, list[float]]
    failed: list[str]


def read_scores(store: Store, run: str, probe: ProbeSpec) -> Scores | None:
    """What the probe of this run gave; None if there is no such record."""
    for entry in store.list(run_key(run, "probes/")):
        record = parse_record(store.get(entry.key), entry.key)
        if is_of(record, probe):
            return {name: score.value for name, score in record.scores.items()}
    return None


def read_measured(files: Sequence[Path], plans: Sequence[Plan]) -> dict[tuple[str, str], Scores]:
    """What other machines measured, from their NAME.json: scores by a run's name here and its probe.

    Points are known by their labels and seed. Raises InvalidInput for a file that is no sweep's, for a sweep
    that is not among the plans, and for one with other settings than its seeds.
    """
    found: dict[tuple[str, str], Scores] = {}
    for file in files:
        content = _read_sweep(file)
        plan = next((one for one in plans if one.name == content["sweep"]), None)
        if plan is None:
            known = ", ".join(one.name for one in plans)
            raise InvalidInput(f"{file} is of the sweep {content['sweep']}, not of {known}", field="with")
        here, there = plan.spec.model_dump(mode="json"), content["spec"]
        settings = {**here, **there}.keys() - _WORDS
        different = sorted(key for key in settings if here.get(key) != there.get(key))
        if different:
            message = f"{file} was measured with another {different[0]}; only seeds may differ"
            raise InvalidInput(message, field="with")
        runs = {(tuple(point.labels.items()), point.seed): point.run for point in plan.points}
        for point in content["points"]:
            run = runs.get((tuple(point["labels"].items()), point["seed"]))
            if run is not None and point["scores"]:
                found.setdefault((run, plan.spec.probe.model_dump_json()), point["scores"])
    return found


def _read_sweep(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise InvalidInput(f"there is no file {file}", field="with") from None
    except ValueError:
        content = None
    if not isinstance(content, dict) or not {"sweep", "spec", "points"} <= content.keys():
        raise InvalidInput(f"{file} is no NAME.json of a sweep", field="with")
    return content


def is_of(record: ProbeRecord, probe: ProbeSpec) -> bool:
    """Whether a record is what this probe measures."""
    return (record.protocol, record.data, record.settings.get("seed")) == (
        probe.protocol,
        Path(probe.data).name,
        probe.seed,
    )


def summarise(
    plan: Plan, scores: Callable[[str], Scores | None], failures: Mapping[str, str]
) -> list[Summary]:
    """The points of the plan by their labels, over seeds."""
    found: dict[tuple[str, ...], Summary] = {}
    for point in plan.points:
        summary = found.setdefault(tuple(point.labels.values()), Summary(point.labels, {}, []))
        measured = scores(point.run)
        if measured is not None:
            for name, value in measured.items():
                summary.scores.setdefault(name, []).append(value)
        elif point.run in failures:
            summary.failed.append(f"{point.run}: {failures[point.run]}")
    return list(found.values())


def table(plan: Plan, summaries: list[Summary]) -> list[list[str]]:
    """Rows of text, the first is the heading: labels, then mean ± standard deviation over seeds in %."""
    scores = plan.spec.probe.scores
    head = [axis.title or name for name, axis in plan.spec.axes.items()] + list(scores.values())
    return [head] + [
        [*summary.labels.values(), *(_cell(summary.scores.get(name, [])) for name in scores)]
        for summary in summaries
    ]


def text_table(plan: Plan, scores: Callable[[str], Scores | None], failures: Mapping[str, str]) -> str:
    """The table of a plan, as text."""
    rows = table(plan, summarise(plan, scores, failures))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ("  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)) for row in rows)
    return "\n".join(map(str.rstrip, lines))


def write_json(
    plan: Plan,
    summaries: list[Summary],
    scores: Callable[[str], Scores | None],
    failures: Mapping[str, str],
    file: Path,
    *,
    facts: Mapping[str, Any],
) -> None:
    """Everything that the figure is drawn from, and what made it; replaces the file at once."""
    content = {
        "schema": 1,
        "sweep": plan.name,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "spec": plan.spec.model_dump(mode="json"),
        "datasets": {name: made.source.model_dump(mode="json") for name, made in plan.datasets.items()},
        "points": [
            {
                "labels": point.labels,
                "seed": point.seed,
                "run": point.run,
                "datasets": list(plan.trainings[point.run].datasets),
                "scores": scores(point.run),
                "failed": failures.get(point.run),
            }
            for point in plan.points
        ],
        "summary": [{"labels": one.labels, "scores": one.scores} for one in summaries],
        "versions": {package: version(package) for package in _PACKAGES},
        **facts,
    }
    scratch = file.with_suffix(".json.new")
    scratch.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    scratch.replace(file)


def _cell(values: list[float]) -> str:
    if not values:
        return ""
    spread = f" ± {stdev(values) * 100:.1f}" if len(values) > 1 else ""
    return f"{fmean(values) * 100:.1f}{spread}"
