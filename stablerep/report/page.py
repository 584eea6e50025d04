"""The demo's report: one self-contained HTML page from `report.json`, the groups and the embedding maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from importlib.resources import files
from statistics import fmean, stdev
from string import Template
from typing import Any

from stablerep.report.charts import Bar, Curve, bar_chart, embedding_map, line_chart, results_table
from stablerep.report.gallery import STYLE, group_figure
from stablerep.shards import Group

COLUMNS = {"few": "10 labels a class", "knn": "20 nearest neighbours", "linear": "linear probe, all labels"}
_COLOURS = {"stablerep": "c-stablerep", "simclr": "c-simclr", "random": "c-random", "pixels": "c-pixels"}


def render_report(
    report: Mapping[str, Any],
    groups: Sequence[tuple[Group, Sequence[bytes]]],
    maps: Mapping[str, tuple[Sequence[Sequence[float]], Sequence[int]]],
    class_names: Sequence[str],
) -> str:
    """The page.

    Args:
        report: what `report.json` holds.
        groups: groups to show, each with encoded real photographs (PNG) of the class its caption names.
        maps: title -> 2-D coordinates [n 2] and labels [n] of held-out real photographs.
        class_names: names of the labels.
    """
    template = Template((files("stablerep.report") / "page.html").read_text(encoding="utf-8"))
    return template.substitute(
        style=STYLE,
        headline=escape(headline(report)),
        summary=escape(_summary(report)),
        cards=_cards(report),
        charts="".join(_bars(report, column) for column in COLUMNS),
        table=results_table(report["probe"], report["titles"], COLUMNS),
        reading="".join(f"<li>{escape(line)}</li>" for line in reading(report)),
        groups="".join(group_figure(group, beside) for group, beside in groups),
        curves=_curves(report),
        maps="".join(embedding_map(title, xy, labels, class_names) for title, (xy, labels) in maps.items()),
        facts=_facts(report),
    )


def _mean(report: Mapping[str, Any], row: str, column: str) -> float:
    return fmean(report["probe"][row][column])


def has_learnt(report: Mapping[str, Any]) -> bool:
    """Whether, with few labels, the StableRep encoder is better than its random initialisation."""
    return _mean(report, "stablerep", "few") > _mean(report, "random", "few")


def headline(report: Mapping[str, Any]) -> str:
    """One sentence with the result, whichever way it fell."""
    ours, other = _mean(report, "stablerep", "few"), _mean(report, "simclr", "few")
    pixels = _mean(report, "pixels", "few")
    if not has_learnt(report):
        start = _mean(report, "random", "few")
        return (
            f"{report['training']['steps']:,} steps were too few to learn from: with 10 labels a class the "
            f"encoder reads {ours * 100:.1f} % of real photographs, its random initialisation "
            f"{start * 100:.1f} %. The path works from end to end; a good encoder takes more steps"
        )
    return (
        f"An encoder that never saw a photograph reads real ones: {ours * 100:.1f} % with 10 labels a class "
        f"(SimCLR on the same images {other * 100:.1f} %, raw pixels {pixels * 100:.1f} %)"
    )


def _summary(report: Mapping[str, Any]) -> str:
    images = report["images"]
    return (
        f"{images['captions']:,} captions became {images['distinct']:,} synthetic images in groups of "
        f"{images['per_caption']}; each learner saw {report['training']['views']:,} augmented views in "
        f"{report['training']['steps']:,} steps; then its features were frozen and probed on "
        f"{report['probe_data']['test']:,} held-out real photographs."
    )


def reading(report: Mapping[str, Any]) -> list[str]:
    """What the numbers mean and what they do not, in sentences."""
    lines = [_comparison(report, "simclr", "SimCLR"), _comparison(report, "pixels", "raw pixels")]
    lines.append(
        "The captions name the class of the product. StableRep knows which images share a caption and "
        "SimCLR does not, so part of any lead it has is what the captions say, not how the images look."
    )
    if "stablerep_no_noun" in report["probe"]:
        lines.append(
            "Two controls remove the class name: the same images grouped by their caption without the "
            f"noun ({_three(report, 'stablerep_regrouped')}), and images generated from captions "
            f"without it (StableRep {_three(report, 'stablerep_no_noun')}; "
            f"SimCLR {_three(report, 'simclr_no_noun')}). "
            "The other words (sleeves, heel, handle ...) still say much of the class."
        )
    seeds = len(report["probe"]["stablerep"]["linear"])
    lines.append(
        f"Every learner had equal augmented views ({report['training']['views']:,}), equal steps and "
        f"{report['images']['distinct']:,} distinct images, the same ones but for rows whose captions "
        "lack the noun. "
        + (
            f"In the table ± is the standard deviation over {seeds} training seeds on one set of images, "
            "in the differences above their standard error."
            if seeds > 1
            else "One seed: differences of a point can be chance, and at this length StableRep need not pass "
            "raw pixels; the command stablerep demo --seeds 3 runs the longer study."
        )
    )
    lines.append(
        "The strength of each probe was chosen on a validation split of the probe's training photographs; "
        "the test photographs were used once, and being finitely many give each accuracy a standard error of "
        f"{_test_error(report) * 100:.1f} points. Neither pipeline nor encoders saw any of these photographs."
    )
    return lines


def _three(report: Mapping[str, Any], row: str) -> str:
    return " / ".join(f"{_mean(report, row, c) * 100:.1f}" for c in COLUMNS)


def _comparison(report: Mapping[str, Any], row: str, name: str) -> str:
    words = []
    for column, title in COLUMNS.items():
        ours, theirs = report["probe"]["stablerep"][column], report["probe"][row][column]
        difference = fmean(ours) - fmean(theirs)
        error = _standard_error(ours, theirs)
        spread = f" ± {error * 100:.1f}" if error else ""
        words.append(f"{difference * 100:+.1f}{spread} points ({title})")
    return f"StableRep against {name}: {'; '.join(words)}."


def _standard_error(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Of the difference of two means over seeds; 0 for a single seed."""
    return float(sum(stdev(v) ** 2 / len(v) for v in (ours, theirs) if len(v) > 1) ** 0.5)


def _test_error(report: Mapping[str, Any]) -> float:
    """Binomial standard error of StableRep's linear probe: what other test photographs would change."""
    accuracy = _mean(report, "stablerep", "linear")
    return float((accuracy * (1 - accuracy) / report["probe_data"]["test"]) ** 0.5)


def _bars(report: Mapping[str, Any], column: str) -> str:
    bars = [
        Bar(report["titles"][row], tuple(measured[column]), _COLOURS.get(row, "c-control"))
        for row, measured in report["probe"].items()
    ]
    return bar_chart(COLUMNS[column], bars)


def _curves(report: Mapping[str, Any]) -> str:
    charts = []
    for row, curve in report["loss"].items():
        css = _COLOURS.get(row, "c-control")
        points = tuple((float(s), float(v)) for s, v in curve["points"])
        charts.append(
            line_chart(
                f"{report['titles'][row]}: loss by step (dashed: its floor)",
                [Curve("", points, css, curve["floor"])],
                width=500,
                height=220,
            )
        )
    return "".join(charts)


def _cards(report: Mapping[str, Any]) -> str:
    seconds = report["seconds"]
    cards = [
        (f"{report['images']['distinct']:,}", "synthetic images"),
        (f"{_mean(report, 'stablerep', 'linear') * 100:.1f} %", "StableRep, linear probe"),
        (f"{_mean(report, 'stablerep', 'few') * 100:.1f} %", "with 10 labels a class"),
        (f"{seconds['total'] / 60:.1f} min", f"on {report['machine']['cores']} CPU cores"),
    ]
    return "".join(f'<div class="cardbox"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in cards)


def _facts(report: Mapping[str, Any]) -> str:
    facts = {
        "Command": report["command"],
        "Date": report["date"],
        "Machine": "{processor}, {cores} cores, {accelerator}".format(**report["machine"]),
        "Versions": ", ".join(f"{k} {v}" for k, v in report["versions"].items()),
        "Recipe": ", ".join(f"{k} {v}" for k, v in report["recipe"].items() if k != "digest"),
        "Seconds": ", ".join(f"{k} {v:.0f}" for k, v in report["seconds"].items()),
        "Encoder": report["training"]["encoder"],
    }
    rows = "".join(f"<tr><th>{escape(k)}</th><td>{escape(str(v))}</td></tr>" for k, v in facts.items())
    return f'<table class="facts">{rows}</table>'
