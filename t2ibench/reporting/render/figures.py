"""The charts as PDF figures for papers, drawn by matplotlib (the extra ``figures``).

The page keeps its own inline SVG, which follows the reader's light or dark theme, answers to the
pointer and needs nothing installed; a paper needs files. Both draw the same ``Chart``.
"""

from __future__ import annotations

import importlib.util
import math
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from t2ibench.core.errors import ConfigError
from t2ibench.core.files import atomic_path
from t2ibench.reporting.render.axis import axis, tick_text
from t2ibench.reporting.render.chart import Chart, Series

FOLDER = "figures"

PALETTE = (
    "#1b62c4", "#b9501a", "#187a55", "#8b3fae", "#9a6b00", "#b3325f", "#3b7080", "#5d5d5d",
)  # fmt: skip
"""Colours of the page's light theme."""

MARKERS, LINES = ("o", "s", "^", "D"), ("-", "--", ":", "-.")
"""Marks of a series by its colour, and lines of the series of one colour."""

WIDTH, HEIGHT, LEGEND_ROW = 3.3, 2.3, 0.14
"""Inches: one column of a paper, the drawing, and each row of the legend below it."""

SHORT_NAME = 24
"""Names of at most so many characters stand in two columns of the legend."""

STYLE: Any = {
    "pdf.fonttype": 42,  # TrueType: publishers refuse matplotlib's Type 3.
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "grid.linewidth": 0.4,
    "legend.fontsize": 7,
    "legend.frameon": False,
}


def can_draw_figures() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def write_figures(charts: Sequence[Chart], folder: Path) -> list[Path]:
    """Writes each chart as ``figures/NUMBER-TITLE.pdf``, atomically and always the same bytes.

    Raises:
        ConfigError: matplotlib is not installed.
    """
    if not can_draw_figures():
        raise ConfigError(
            "figures as PDF need matplotlib, which is not installed; "
            'type pip install "t2ibench[figures]".'
        )
    return [
        _write(chart, folder / FOLDER / f"{number:02d}-{_file_name(chart.title)}.pdf")
        for number, chart in enumerate(charts, 1)
    ]


def _write(chart: Chart, path: Path) -> Path:
    import matplotlib
    from matplotlib.backends.backend_pdf import FigureCanvasPdf
    from matplotlib.figure import Figure

    with matplotlib.rc_context(STYLE), atomic_path(path) as aside:
        height = HEIGHT + LEGEND_ROW * math.ceil(len(chart.series) / _legend_columns(chart))
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        _draw(chart, figure.add_subplot())
        FigureCanvasPdf(figure).print_pdf(aside, metadata={"CreationDate": None})
    return path


def _draw(chart: Chart, axes: Any) -> None:
    """Series with error bars and labels, the dashed line, a legend where there are several."""
    drawn: Counter[int] = Counter()
    for series in chart.series:
        _draw_series(series, axes, LINES[drawn[series.colour] % len(LINES)])
        drawn[series.colour] += 1
    if chart.y_line is not None:
        height, label = chart.y_line
        axes.axhline(height, color="0.4", linewidth=0.8, linestyle="--")
        axes.annotate(
            label, (1, height), xycoords=("axes fraction", "data"), xytext=(0, 2),
            textcoords="offset points", ha="right", fontsize=7, color="0.4",
        )  # fmt: skip
    x = axis(chart.widths(), 0, 1, chart.x_log, chart.x_whole)
    y = axis(chart.heights(), 0, 1, log=False)
    axes.set(
        xscale="log" if chart.x_log else "linear",
        xlim=(x.low, x.high),
        ylim=(y.low, y.high),
        xlabel=chart.x_title,
        ylabel=chart.y_title,
    )
    axes.minorticks_off()
    axes.set_xticks(x.ticks(), list(map(tick_text, x.ticks())))
    axes.set_yticks(y.ticks(), list(map(tick_text, y.ticks())))
    axes.set_title(f"{chart.title}\n{chart.subtitle}".strip(), loc="left")
    if len(chart.series) > 1:
        axes.figure.legend(loc="outside lower left", ncols=_legend_columns(chart))


def _draw_series(series: Series, axes: Any, line: str) -> None:
    colour = PALETTE[series.colour % len(PALETTE)]
    marker = MARKERS[series.colour % len(MARKERS)]
    points = [p for p in series.points if math.isfinite(p.x) and math.isfinite(p.y)]
    axes.plot(
        [p.x for p in points],
        [p.y for p in points],
        color=colour,
        linewidth=1.0,
        linestyle=line if series.line else "",
        marker=marker if series.markers else None,
        markersize=3,
        label=series.name,
    )
    strong = [p for p in points if p.strong and series.markers]
    axes.plot(
        [p.x for p in strong],
        [p.y for p in strong],
        color=colour,
        linestyle="",
        marker=marker,
        markersize=5,
    )
    for p in points:
        if p.low is not None and p.high is not None:
            axes.vlines(p.x, p.low, p.high, color=colour, linewidth=1.0, alpha=0.65)
        if p.label and p.label != series.name:
            axes.annotate(
                p.label, (p.x, p.y), xytext=(3, 3), textcoords="offset points", fontsize=7,
                color=colour,
            )  # fmt: skip


def _legend_columns(chart: Chart) -> int:
    return 2 if all(len(series.name) <= SHORT_NAME for series in chart.series) else 1


def _file_name(title: str) -> str:
    """``quality-against-sampling-time``."""
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")
