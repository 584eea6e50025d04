"""A sweep's files beside its store: NAME.json with every number, NAME.svg, and NAME.html to read."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from stablerep.report.series import series_chart
from stablerep.shards.layout import sweep_key
from stablerep.storage import Store
from stablerep.sweeps.plan import Plan
from stablerep.sweeps.results import Scores, Summary, summarise, table, write_json

_LOGARITHMIC_ABOVE = 8
"""A numeric axis whose last value is so many times its first one is logarithmic."""
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --page: transparent; }}
body {{ font: 16px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }}
svg {{ max-width: 100%; height: auto; }}
table {{ border-collapse: collapse; margin: 1rem 0; }}
td, th {{ padding: .25rem .8rem .25rem 0; text-align: left; border-bottom: 1px solid #8885; }}
pre {{ overflow-x: auto; background: #8882; padding: .8rem; border-radius: 6px; }}
.soft {{ opacity: .75; }}
</style>
<h1>{title}</h1>
<p>{about}</p>
{chart}
{table}
<p class="soft">{reading}</p>
{failures}
<h2>To make it again</h2>
<pre>{command}</pre>
</html>
"""


def draw(
    plan: Plan,
    scores: Callable[[str], Scores | None],
    failures: Mapping[str, str],
    out: Path,
    store: Store | None,
    command: str,
    facts: Mapping[str, Any],
) -> None:
    """Writes the three files as far as something is measured; figure and numbers into the store, too."""
    summaries = summarise(plan, scores, failures)
    facts = {"command": command, **facts}
    write_json(plan, summaries, scores, failures, out / f"{plan.name}.json", facts=facts)
    chart = figure(plan, summaries)
    (out / f"{plan.name}.svg").write_text(chart, encoding="utf-8")
    if store is not None:
        store.put(sweep_key(plan.name, "svg"), chart.encode())
        store.put(sweep_key(plan.name, "json"), out / f"{plan.name}.json")
    page = _PAGE.format(
        title=escape(plan.spec.title),
        about=escape(plan.spec.about),
        chart=chart,
        table=_table(table(plan, summaries)),
        reading=escape(_reading(plan, summaries)),
        failures=_failures(summaries),
        command=escape(command),
    )
    (out / f"{plan.name}.html").write_text(page, encoding="utf-8")


def figure(plan: Plan, summaries: Sequence[Summary]) -> str:
    """The SVG: a panel a score of the probe, x along one axis, a line for every value of the other."""
    spec = plan.spec
    axis = spec.axes[spec.x]
    numbers = axis.numbers
    panels: dict[str, dict[str, dict[str, list[float]]]] = {}
    for score, title in spec.probe.scores.items():
        lines = panels.setdefault(title, {})
        for summary in summaries:
            line = summary.labels[spec.lines] if spec.lines else spec.title
            lines.setdefault(line, {})[summary.labels[spec.x]] = summary.scores.get(score, [])
    logarithmic = numbers is not None and min(numbers) > 0
    logarithmic = logarithmic and max(numbers or [0]) / min(numbers or [1]) > _LOGARITHMIC_ABOVE
    return series_chart(
        spec.title,
        axis.title or spec.x,
        list(axis.values),
        panels,
        places=numbers,
        logarithmic=logarithmic,
    )


def _reading(plan: Plan, summaries: Sequence[Summary]) -> str:
    probe = plan.spec.probe
    measured = max((len(values) for one in summaries for values in one.scores.values()), default=0)
    done = sum(len(next(iter(one.scores.values()), [])) for one in summaries)
    over = (
        f"mean ± standard deviation over {measured} training seeds" if measured > 1 else "one training seed"
    )
    return (
        f"Accuracies on {probe.data} by the protocol {probe.protocol}, {over}, on one set of images; "
        f"{done} of {len(plan.points)} runs measured."
    )


def _table(rows: list[list[str]]) -> str:
    head = "".join(f"<th>{escape(cell)}</th>" for cell in rows[0])
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows[1:])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _failures(summaries: Sequence[Summary]) -> str:
    lines = [problem for one in summaries for problem in one.failed]
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<h2>What failed</h2><ul>{items}</ul>" if lines else ""
