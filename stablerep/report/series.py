"""Lines with their spread as one SVG file: a panel a score, a line a method, a dot a seed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from html import escape
from statistics import fmean, stdev

_COLOURS = ("#2a78d6", "#eb6834", "#1baf7a", "#a44bd3", "#c98500", "#d6457b", "#5b6b7a", "#0e8f9e")
_LEFT, _TOP, _BOTTOM, _GAP, _HEIGHT = 46, 58, 46, 26, 250
_INTERVALS = 4
_STYLE = """
svg { background: var(--page, #fff); font: 12px system-ui, sans-serif; }
text { fill: #23262b; } .soft { fill: #656a72; } .grid { stroke: #d9dce1; } .axis { stroke: #8a9099; }
@media (prefers-color-scheme: dark) {
  svg { background: var(--page, #16181c); } text { fill: #e8e9eb; } .soft { fill: #a5abb5; }
  .grid { stroke: #363a41; } .axis { stroke: #767d88; }
}
"""

Series = Mapping[str, Sequence[float]]
"""The values of the seeds by the label on the x axis; some labels may have none yet."""


def series_chart(
    title: str,
    x_title: str,
    labels: Sequence[str],
    panels: Mapping[str, Mapping[str, Series]],
    *,
    places: Sequence[float] | None = None,
    logarithmic: bool = False,
    width: int = 980,
) -> str:
    """An SVG document.

    Args:
        labels: of the x axis, in order.
        panels: score -> line -> its series; accuracies 0..1.
        places: where the labels are on the axis, for numbers; None: labels are side by side and no line joins
            them, since nothing is between them.
        logarithmic: the axis is; all places are above 0.
    """
    lines = list(dict.fromkeys(name for panel in panels.values() for name in panel))
    each = (width - _LEFT - _GAP * (len(panels) - 1)) / len(panels)
    height = _TOP + _HEIGHT + _BOTTOM
    parts = [
        f'<text x="8" y="20" font-size="15" font-weight="600">{escape(title)}</text>',
        *_legend(lines, width),
    ]
    for number, (name, panel) in enumerate(panels.items()):
        left = _LEFT + number * (each + _GAP)
        parts += _panel(name, panel, lines, labels, places, logarithmic, left, each - (20 if number else 0))
        parts.append(
            f'<text class="soft" x="{left + each / 2:.1f}" y="{height - 8}" text-anchor="middle">'
            f"{escape(x_title)}</text>"
        )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" role="img" aria-label="{escape(title, quote=True)}">'
        f"<style>{_STYLE}</style>{''.join(parts)}</svg>\n"
    )


def _legend(lines: Sequence[str], width: int) -> list[str]:
    parts, x = [], 8.0
    for number, name in enumerate(lines):
        parts.append(f'<circle cx="{x + 5:.1f}" cy="38" r="4.5" fill="{_colour(number)}"/>')
        parts.append(f'<text x="{x + 14:.1f}" y="42">{escape(name)}</text>')
        x += 30 + 7.2 * len(name)
    return parts if len(lines) > 1 else []


def _colour(number: int) -> str:
    return _COLOURS[number % len(_COLOURS)]


def _panel(
    name: str,
    panel: Mapping[str, Series],
    lines: Sequence[str],
    labels: Sequence[str],
    places: Sequence[float] | None,
    logarithmic: bool,
    left: float,
    width: float,
) -> list[str]:
    values = [value for series in panel.values() for seeds in series.values() for value in seeds]
    ticks = _ticks(values)
    low, high = ticks[0], ticks[-1]
    xs = _places(labels, places, logarithmic, left, width)

    def y(value: float) -> float:
        return _TOP + 18 + (high - value) / (high - low) * (_HEIGHT - 18)

    parts = [f'<text x="{left:.1f}" y="{_TOP + 6}" font-weight="600">{escape(name)}, %</text>']
    for value in ticks:
        at = f"{y(value):.1f}"
        parts.append(
            f'<line class="grid" x1="{left:.1f}" x2="{left + width:.1f}" y1="{at}" y2="{at}"/>'
            f'<text class="soft" x="{left - 6:.1f}" y="{y(value) + 4:.1f}" text-anchor="end">'
            f"{_per_cent(value, ticks[1] - ticks[0])}</text>"
        )
    for label, x in zip(labels, xs, strict=True):
        parts.append(
            f'<text class="soft" x="{x:.1f}" y="{_TOP + _HEIGHT + 18}" text-anchor="middle">'
            f"{escape(label)}</text>"
        )
    for number, line in enumerate(lines):
        shift = (number - (len(lines) - 1) / 2) * _dodge(places, len(lines), len(labels), width)
        parts += _line(line, panel.get(line, {}), _colour(number), labels, [x + shift for x in xs], y, places)
    return parts


def _line(
    name: str,
    series: Series,
    colour: str,
    labels: Sequence[str],
    xs: Sequence[float],
    y: object,
    places: Sequence[float] | None,
) -> list[str]:
    assert callable(y)
    parts, path = [], []
    for label, x in zip(labels, xs, strict=True):
        seeds = series.get(label, ())
        if not seeds:
            continue
        mean = fmean(seeds)
        path.append(f"{x:.1f},{y(mean):.1f}")
        if len(seeds) > 1:
            spread = stdev(seeds)
            parts.append(
                f'<line stroke="{colour}" stroke-width="1.5" x1="{x:.1f}" x2="{x:.1f}" '
                f'y1="{y(mean - spread):.1f}" y2="{y(mean + spread):.1f}"/>'
            )
        parts += [
            f'<circle cx="{x:.1f}" cy="{y(value):.1f}" r="1.8" fill="{colour}" fill-opacity="0.5"/>'
            for value in seeds
        ]
        told = ", ".join(f"{value * 100:.2f} %" for value in seeds)
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y(mean):.1f}" r="4" fill="{colour}">'
            f"<title>{escape(f'{name}, {label}: {told}')}</title></circle>"
        )
    if places is not None and len(path) > 1:
        parts.insert(
            0, f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{" ".join(path)}"/>'
        )
    return parts


def _places(
    labels: Sequence[str], places: Sequence[float] | None, logarithmic: bool, left: float, width: float
) -> list[float]:
    margin = 16.0 if places is not None else width / len(labels) / 2
    numbers: Sequence[float] = places if places is not None else range(len(labels))
    if logarithmic:
        numbers = [math.log(number) for number in numbers]
    first, last = min(numbers), max(numbers)
    return [
        left + margin + (number - first) / ((last - first) or 1) * (width - 2 * margin) for number in numbers
    ]


def _dodge(places: Sequence[float] | None, lines: int, labels: int, width: float) -> float:
    """How far the lines stand apart at one label, where they are not joined."""
    return 0.0 if places is not None else min(14.0, width / labels / (lines + 1))


def _ticks(values: Sequence[float]) -> list[float]:
    """Round numbers around all values: in steps of 1, 2 or 5 times a power of ten."""
    if not values:
        return [0.0, 0.5, 1.0]
    low, high = min(values), max(values)
    rough = max(high - low, 0.01) / _INTERVALS
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * power for factor in (1, 2, 5, 10) if factor * power >= rough)
    first, last = math.floor(low / step), math.ceil(high / step)
    if first == last:
        last += 1
    return [number * step for number in range(first, last + 1)]


def _per_cent(value: float, step: float) -> str:
    return f"{value * 100:.{0 if step >= 0.0099 else 1}f}"
