"""A chart as inline SVG that follows the page's theme: axes, lines, points with error bars.

Colours are CSS classes of the page (``c0`` .. ``c7``), so one file serves light and dark;
series also differ by marker and carry their names, so colour is never the only cue.
"""

from __future__ import annotations

import math
from html import escape

from t2ibench.reporting.render.axis import Axis, axis, tick_text
from t2ibench.reporting.render.chart import Chart, Series

WIDTH, HEIGHT = 360, 270
LEFT, RIGHT, TOP, BOTTOM = 52, 14, 16, 44
"""Margins of the drawing area; units are CSS pixels on a phone."""


def draw(chart: Chart) -> str:
    """The chart as an ``<svg>`` element with title and description."""
    x = axis(chart.widths(), LEFT, WIDTH - RIGHT, chart.x_log, chart.x_whole)
    y = axis(chart.heights(), HEIGHT - BOTTOM, TOP, log=False)
    body = [*_frame(chart, x, y)]
    if chart.y_line is not None:
        height = y(chart.y_line[0])
        body.append(
            f'<line class="reference" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{height:.1f}" '
            f'y2="{height:.1f}"/><text class="small" x="{WIDTH - RIGHT}" y="{height - 4:.1f}" '
            f'text-anchor="end">{escape(chart.y_line[1])}</text>'
        )
    for series in chart.series:
        body.extend(_series(series, x, y))
    label = escape(f"{chart.title}. {chart.description}", quote=True)
    return (
        f'<svg class="chart" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{label}">'
        f"{''.join(body)}</svg>"
    )


def _frame(chart: Chart, x: Axis, y: Axis) -> list[str]:
    """Grid lines, tick labels and axis titles."""
    parts = []
    for tick in y.ticks():
        at = y(tick)
        parts.append(
            f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{at:.1f}" y2="{at:.1f}"/>'
            f'<text x="{LEFT - 6}" y="{at + 3.5:.1f}" text-anchor="end">{tick_text(tick)}</text>'
        )
    base = HEIGHT - BOTTOM
    parts.append(f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{base}" y2="{base}"/>')
    for tick in x.ticks():
        at = x(tick)
        parts.append(
            f'<line class="axis" x1="{at:.1f}" x2="{at:.1f}" y1="{base}" y2="{base + 4}"/>'
            f'<text x="{at:.1f}" y="{base + 16}" text-anchor="middle">{tick_text(tick)}</text>'
        )
    middle = (LEFT + WIDTH - RIGHT) / 2
    parts.append(
        f'<text class="title" x="{middle}" y="{HEIGHT - 8}" text-anchor="middle">'
        f"{escape(chart.x_title)}</text>"
        f'<text class="title" transform="translate(12 {(TOP + base) / 2}) rotate(-90)" '
        f'text-anchor="middle">{escape(chart.y_title)}</text>'
    )
    return parts


def _series(series: Series, x: Axis, y: Axis) -> list[str]:
    """Line, error bars, markers and labels of one series."""
    colour = f"c{series.colour % 8}"
    parts = []
    points = [p for p in series.points if math.isfinite(p.x) and math.isfinite(p.y)]
    if series.line and len(points) > 1:
        path = " ".join(f"{x(p.x):.1f},{y(p.y):.1f}" for p in points)
        parts.append(f'<polyline class="line {colour}" points="{path}"/>')
    for p in points:
        left, top = x(p.x), y(p.y)
        if p.low is not None and p.high is not None:
            parts.append(
                f'<line class="bar {colour}" x1="{left:.1f}" x2="{left:.1f}" '
                f'y1="{y(p.low):.1f}" y2="{y(p.high):.1f}"/>'
            )
        if series.markers:
            tip = f"<title>{escape(p.tip)}</title>" if p.tip else ""
            size = 5.5 if p.strong else 3.2
            parts.append(marker(series.colour, left, top, size, tip))
        if p.label:
            anchor = "end" if left > WIDTH - 90 else "start"
            shift = -8 if anchor == "end" else 8
            parts.append(
                f'<text class="label {colour}" x="{left + shift:.1f}" y="{top - 6:.1f}" '
                f'text-anchor="{anchor}">{escape(p.label)}</text>'
            )
    return parts


def marker(colour: int, x: float, y: float, size: float, tip: str = "") -> str:
    """Circle, square, triangle or diamond, by colour index."""
    shapes = (
        [(math.cos(a) * 1.1, math.sin(a) * 1.1) for a in [i * math.pi / 8 for i in range(16)]],
        [(-1, -1), (1, -1), (1, 1), (-1, 1)],
        [(0, -1.3), (1.2, 0.9), (-1.2, 0.9)],
        [(0, -1.4), (1.4, 0), (0, 1.4), (-1.4, 0)],
    )
    corners = " ".join(f"{x + size * u:.1f},{y + size * v:.1f}" for u, v in shapes[colour % 4])
    return f'<polygon class="mark c{colour % 8}" points="{corners}">{tip}</polygon>'
