"""Charts as SVG that the page's style sheet colours; their points can be read out by pointer and keyboard."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from markupsafe import Markup

from services.console.history import Point

WIDTH, HEIGHT = 560, 240
_LEFT, _RIGHT, _TOP, _BOTTOM = 64, 14, 34, 30
_MAX_POINTS = 400
_TICKS = 4
Format = Callable[[float], str]


@dataclass(frozen=True)
class Line:
    """A curve: its name, and (x, y) points in order of x."""

    name: str
    points: Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Bar:
    """A score 0..1 with the ends of its interval."""

    name: str
    value: float
    low: float
    high: float


def short(value: float) -> str:
    """A number in four digits or so: 1.25e-05, 0.0312, 12.5, 1,250."""
    if value and (abs(value) < 1e-3 or abs(value) >= 1e6):
        return f"{value:.3g}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.4g}"


def progress_chart(points: Sequence[Point]) -> str:
    """Images done over the time since a page first looked; nothing while there is one point."""
    if len(points) < 2:
        return ""
    line = Line("images done", [(point.time, float(point.images)) for point in points])
    return line_chart("Images done", [line], x_format=_clock, from_zero=True)


def line_chart(
    title: str,
    lines: Sequence[Line],
    *,
    x_format: Format = short,
    y_format: Format = short,
    from_zero: bool = False,
) -> str:
    """Curves over one axis; empty without points."""
    kept = [Line(line.name, _thinned(line.points)) for line in lines]
    points = [point for line in kept for point in line.points if math.isfinite(point[1])]
    if not points:
        return ""
    xs, ys = [x for x, _ in points], [y for _, y in points]
    left, right = min(xs), max(xs)
    ticks = _ticks(0.0 if from_zero else min(ys), max(ys))
    low, high = ticks[0], ticks[-1]

    def across(x: float) -> float:
        return _LEFT + (x - left) / ((right - left) or 1) * (WIDTH - _LEFT - _RIGHT)

    def down(y: float) -> float:
        return _TOP + (high - y) / (high - low) * (HEIGHT - _TOP - _BOTTOM)

    parts = [
        Markup(
            '<line class="grid" x1="{}" x2="{}" y1="{y:.1f}" y2="{y:.1f}"/>'
            '<text class="tick" x="{}" y="{t:.1f}" text-anchor="end">{}</text>'
        ).format(_LEFT, WIDTH - _RIGHT, _LEFT - 6, y_format(tick), y=down(tick), t=down(tick) + 4)
        for tick in ticks
    ]
    for place in range(3):
        x = left + (right - left) * place / 2
        anchor = ("start", "middle", "end")[place]
        parts.append(
            Markup('<text class="tick" x="{:.1f}" y="{}" text-anchor="{}">{}</text>').format(
                across(x), HEIGHT - 8, anchor, x_format(x)
            )
        )
    for place, line in enumerate(kept):
        there = [(x, y) for x, y in line.points if math.isfinite(y)]
        path = " ".join(f"{across(x):.1f},{down(y):.1f}" for x, y in there)
        told = "|".join(f"{x_format(x)}: {y_format(y)}" for x, y in there)
        parts.append(
            Markup('<polyline class="line c{}" data-name="{}" data-told="{}" points="{}"/>').format(
                place % 8, line.name, told, path
            )
        )
    last = ", ".join(f"{line.name} {y_format(line.points[-1][1])}" for line in kept if line.points)
    return _svg(title, f"{title}. Last: {last}", parts, HEIGHT)


def bar_chart(title: str, bars: Sequence[Bar]) -> str:
    """Scores with their intervals, from zero or from a little below the lowest."""
    low = min(0.9, max(0.0, math.floor((min(bar.low for bar in bars) - 0.05) * 10) / 10))
    row = 40

    def across(value: float) -> float:
        """Of a score, or of an interval's end, which may lie beyond what a score can be."""
        return (min(max(value, low), 1.0) - low) / (1 - low) * (WIDTH - 70)

    parts = []
    for place, bar in enumerate(bars):
        top = _TOP + place * row
        parts.append(
            Markup(
                '<text class="tick" x="0" y="{}">{}</text><rect class="bar c{}" x="0" y="{}" width="{:.1f}" '
                'height="14" rx="3"/><line class="whisker" x1="{:.1f}" x2="{:.1f}" y1="{y}" y2="{y}"/>'
                '<text class="value" x="{:.1f}" y="{}">{:.1f}</text>'
            ).format(
                top + 8,
                bar.name,
                place % 8,
                top + 13,
                across(bar.value),
                across(bar.low),
                across(bar.high),
                across(max(bar.value, bar.high)) + 8,
                top + 24,
                bar.value * 100,
                y=top + 20,
            )
        )
    height = _TOP + len(bars) * row + 18
    parts.append(
        Markup('<text class="tick" x="0" y="{}">{}</text>').format(
            height - 4, f"%, axis from {low * 100:.0f}; lines are 95 % intervals"
        )
    )
    told = "; ".join(
        f"{bar.name} {bar.value * 100:.1f} % ({bar.low * 100:.1f} to {bar.high * 100:.1f})" for bar in bars
    )
    return _svg(title, f"{title}: {told}", parts, height)


def _svg(title: str, described: str, parts: Sequence[Markup], height: int) -> str:
    return str(
        Markup(
            '<div class="plot"><svg class="chart" viewBox="0 0 {} {}" role="img" aria-label="{}">'
            '<text class="title" x="0" y="16">{}</text>{}</svg></div>'
        ).format(WIDTH, height, described, title, Markup("").join(parts))
    )


def _thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most _MAX_POINTS of them: of each stretch the lowest and the highest, so that no peak is lost."""
    if len(points) <= _MAX_POINTS:
        return list(points)
    stretch = -(-len(points) // (_MAX_POINTS // 2))
    kept = []
    for start in range(0, len(points), stretch):
        part = points[start : start + stretch]
        kept += sorted({min(part, key=lambda point: point[1]), max(part, key=lambda point: point[1])})
    if kept[-1] != points[-1]:
        kept.append(points[-1])
    return kept


def _ticks(low: float, high: float) -> list[float]:
    """Round numbers around both: in steps of 1, 2 or 5 times a power of ten."""
    rough = max(high - low, abs(high) * 1e-6, 1e-12) / _TICKS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough * (1 - 1e-9))
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [place * step for place in range(first, max(last, first + 1) + 1)]


def _clock(time: float) -> str:
    return f"{datetime.fromtimestamp(time, UTC):%H:%M:%S}"
