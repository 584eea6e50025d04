"""Charts of the report as SVG text: grouped bars with one dot a seed, loss curves, embedding maps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from statistics import fmean, stdev


@dataclass(frozen=True)
class Bar:
    """One bar: its values are the seeds', its height their mean."""

    label: str
    values: tuple[float, ...]
    css: str


def bar_chart(title: str, bars: Sequence[Bar], *, width: int = 318, bar_height: int = 26) -> str:
    """Horizontal bars of accuracies (0..1), a dot a seed, a whisker of one standard deviation over seeds."""
    low = _floor_of_axis(bars)
    top, gap = 34, 22
    height = top + len(bars) * (bar_height + gap) + 18

    def x(value: float) -> float:
        return (value - low) / (1.0 - low) * (width - 52)

    parts = [f'<text class="charttitle" x="0" y="16">{escape(title)}</text>']
    for index, bar in enumerate(bars):
        y = top + index * (bar_height + gap)
        mean = fmean(bar.values)
        parts.append(f'<text class="barlabel" x="0" y="{y + 9}">{escape(bar.label)}</text>')
        bar_y = y + 14
        tooltip = f"{bar.label}: {_percent(bar.values)}"
        parts.append(
            f'<rect class="{bar.css}" x="0" y="{bar_y}" width="{x(mean):.1f}" '
            f'height="{bar_height - 8}" rx="3">'
            f"<title>{escape(tooltip)}</title></rect>"
        )
        middle = bar_y + (bar_height - 8) / 2
        if len(bar.values) > 1:
            spread = stdev(bar.values)
            left, right = x(max(low, mean - spread)), x(min(1.0, mean + spread))
            parts.append(
                f'<line class="whisker" x1="{left:.1f}" x2="{right:.1f}" y1="{middle}" y2="{middle}"/>'
            )
            parts += [
                f'<circle class="seed" cx="{x(v):.1f}" cy="{middle}" r="2.6"/>'
                for v in bar.values
                if v >= low
            ]
        right_end = max(x(mean), *(x(v) for v in bar.values))
        parts.append(f'<text class="value" x="{right_end + 6:.1f}" y="{middle + 4}">{mean * 100:.1f}</text>')
    parts.append(
        f'<text class="axis" x="0" y="{height - 4}">axis starts at {low * 100:.0f} %</text>' if low else ""
    )
    return _svg(width, height, parts, title)


def _floor_of_axis(bars: Sequence[Bar]) -> float:
    smallest = min(min(bar.values) for bar in bars)
    return max(0.0, math.floor((smallest - 0.12) * 10) / 10)


def _percent(values: Sequence[float]) -> str:
    return ", ".join(f"{v * 100:.2f} %" for v in values)


@dataclass(frozen=True)
class Curve:
    """One line: (step, value) points, and the smallest value the objective can reach where it is known."""

    label: str
    points: tuple[tuple[float, float], ...]
    css: str
    floor: float | None = None


def line_chart(title: str, curves: Sequence[Curve], *, width: int = 520, height: int = 260) -> str:
    """Curves over steps on one pair of axes, floors dashed in the colour of their curve."""
    points = [p for c in curves for p in c.points]
    if not points:
        return ""
    floors = [c.floor for c in curves if c.floor is not None]
    highest, lowest = max(p[1] for p in points), min([p[1] for p in points] + floors)
    last = max(p[0] for p in points)
    left, top, right, bottom = 44, 30, 120 if any(c.label for c in curves) else 12, 30

    def place(step: float, value: float) -> tuple[float, float]:
        x = left + step / (last or 1) * (width - left - right)
        y = top + (highest - value) / ((highest - lowest) or 1) * (height - top - bottom)
        return x, y

    parts = [f'<text class="charttitle" x="0" y="16">{escape(title)}</text>']
    for tick in range(5):
        value = lowest + (highest - lowest) * tick / 4
        y = place(0, value)[1]
        parts.append(f'<line class="gridline" x1="{left}" x2="{width - right}" y1="{y:.1f}" y2="{y:.1f}"/>')
        parts.append(
            f'<text class="axis" x="{left - 6}" y="{y + 4:.1f}" text-anchor="end">{value:.1f}</text>'
        )
        step = last * tick / 4
        x = place(step, lowest)[0]
        parts.append(
            f'<text class="axis" x="{x:.1f}" y="{height - 10}" text-anchor="middle">{step:.0f}</text>'
        )
    label_y: list[float] = []
    for curve in curves:
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in (place(*p) for p in curve.points))
        parts.append(f'<polyline class="curve stroke-{curve.css}" points="{path}"/>')
        if curve.floor is not None:
            y = place(0, curve.floor)[1]
            parts.append(
                f'<line class="floor stroke-{curve.css}" x1="{left}" x2="{width - right}" '
                f'y1="{y:.1f}" y2="{y:.1f}"/>'
            )
        end_x, end_y = place(*curve.points[-1])
        while any(abs(end_y - taken) < 13 for taken in label_y):
            end_y += 13
        label_y.append(end_y)
        parts.append(
            f'<text class="curvelabel" x="{end_x + 6:.1f}" y="{end_y + 4:.1f}">{escape(curve.label)}</text>'
        )
    return _svg(width, height, parts, title)


def embedding_map(
    title: str,
    coordinates: Sequence[Sequence[float]],
    labels: Sequence[int],
    names: Sequence[str],
    *,
    size: int = 380,
) -> str:
    """A scatter of [n 2] coordinates coloured by class, each class named once at the median of its points."""
    xs, ys = [c[0] for c in coordinates], [c[1] for c in coordinates]
    left, right, low, high = min(xs), max(xs), min(ys), max(ys)

    def place(x: float, y: float) -> tuple[float, float]:
        return (
            10 + (x - left) / ((right - left) or 1) * (size - 20),
            28 + (y - low) / ((high - low) or 1) * (size - 38),
        )

    parts = [f'<text class="charttitle" x="0" y="16">{escape(title)}</text>']
    by_class: dict[int, list[tuple[float, float]]] = {}
    for coordinate, label in zip(coordinates, labels, strict=True):
        by_class.setdefault(int(label), []).append(place(coordinate[0], coordinate[1]))
    for label, points in sorted(by_class.items()):
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2.1"/>' for x, y in points)
        parts.append(f'<g class="class{label % 10}"><title>{escape(names[label])}</title>{dots}</g>')
    for label, points in sorted(by_class.items()):
        x = sorted(p[0] for p in points)[len(points) // 2]
        y = sorted(p[1] for p in points)[len(points) // 2]
        parts.append(
            f'<text class="mapname" x="{x:.1f}" y="{y:.1f}" text-anchor="middle">'
            f"{escape(names[label])}</text>"
        )
    return _svg(size, size, parts, title)


def results_table(
    rows: Mapping[str, Mapping[str, Sequence[float]]], titles: Mapping[str, str], columns: Mapping[str, str]
) -> str:
    """An HTML table of mean accuracies in %, ± the standard deviation over several seeds."""
    head = "".join(f"<th>{escape(c)}</th>" for c in columns.values())
    body = []
    for row, measured in rows.items():
        cells = "".join(f"<td>{_mean_and_spread(measured[c])}</td>" for c in columns)
        body.append(f"<tr><td>{escape(titles.get(row, row))}</td>{cells}</tr>")
    return f"<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(body)}</tbody></table>"


def _mean_and_spread(values: Sequence[float]) -> str:
    spread = f" <span class='spread'>± {stdev(values) * 100:.1f}</span>" if len(values) > 1 else ""
    return f"{fmean(values) * 100:.1f}{spread}"


def _svg(width: int, height: int, parts: Sequence[str], title: str) -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(title)}">{"".join(parts)}</svg>'
    )
