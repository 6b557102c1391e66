"""The comparison as plain tables and standing-alone charts, for an experiment tracker."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from typing import Any

from t2ibench.reporting.render import html
from t2ibench.reporting.render.chart import Chart
from t2ibench.reporting.render.charts import atomicity_charts, colour_of, cost_charts, front_charts
from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.csv_files import COMPARISON_COLUMNS, comparison_rows
from t2ibench.reporting.render.table import Row, Table
from t2ibench.reporting.statistics.analysis import Analysis

PARTS = ("ci_low", "ci_high", "sd")


def wandb_tables(analysis: Analysis) -> dict[str, list[list[Any]]]:
    """``leaderboard`` and ``verdicts``: heading, then rows of numbers and words."""
    content = Content(analysis)
    scores = content.scores.printed
    costs = {row.label: content.costs.values(row) for row in content.costs.rows}
    standings = {row.label: content.pareto.values(row) for row in content.pareto.rows}
    measured = [column.name for column in scores.columns if column.key]
    rows: list[dict[str, Any]] = []
    for row in (row for row in scores.rows if not row.heading):
        values = {"model": row.label, **scores.values(row), **_spreads(scores, row)}
        if row.reference:
            values["family"] = "reference"
        rows.append(values | costs.get(row.label, {}) | standings.get(row.label, {}))
    heading = ["model", *(column.name for column in scores.columns)]
    heading += [f"{name}/{part}" for name in measured for part in PARTS]
    heading += [column.name for column in (*content.costs.columns, *content.pareto.columns)]
    return {
        "leaderboard": [heading, *([row.get(name) for name in heading] for row in rows)],
        "verdicts": [
            list(COMPARISON_COLUMNS),
            *([row[name] for name in COMPARISON_COLUMNS] for row in comparison_rows(content)),
        ],
    }


def chart_pages(analysis: Analysis) -> dict[str, str]:
    """Quality against cost and alignment, accuracy by objects: name -> self-contained page.

    A name is the chart's title, with what measured it and a number where several share one.
    """
    leaderboard = analysis.leaderboard
    legend = html.legend(colour_of(leaderboard))
    charts = [
        *cost_charts(leaderboard),
        *front_charts(leaderboard),
        *atomicity_charts(leaderboard),
    ]
    names = _told_apart([chart.title for chart in charts], [chart.subtitle for chart in charts])
    names = _told_apart(names, [str(names[: i + 1].count(name)) for i, name in enumerate(names)])
    return {name: _page(chart, legend) for name, chart in zip(names, charts, strict=True)}


def _told_apart(names: Sequence[str], details: Sequence[str]) -> list[str]:
    """Names, with a detail in brackets behind each that occurs again."""
    count = Counter(names)
    return [
        f"{name} ({detail})" if count[name] > 1 else name
        for name, detail in zip(names, details, strict=True)
    ]


def _spreads(table: Table, row: Row) -> dict[str, float | None]:
    """Ends of the intervals and standard deviations: ``KEY/ci_low``."""
    found: dict[str, float | None] = {}
    for column, cell in zip(table.columns, row.cells, strict=True):
        ends = zip(PARTS, (cell.low, cell.high, cell.sd), strict=True)
        found |= {f"{column.name}/{part}": end for part, end in ends}
    return found


def _page(chart: Chart, legend: str) -> str:
    style = (files("t2ibench.reporting.render") / "page.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html><meta charset="utf-8"><title>{escape(chart.title)}</title>'
        f"<style>{style}</style>{legend}{html.charts([chart])}"
    )
