"""The comparison as plain tables and standing-alone charts, for an experiment tracker."""

from __future__ import annotations

from importlib.resources import files
from typing import Any

from t2ibench.report import fragments
from t2ibench.report.analysis import Analysis
from t2ibench.report.columns import metric_of
from t2ibench.report.formats import cost_values
from t2ibench.report.pareto import COSTS
from t2ibench.report.plots import colour_of, cost_charts, front_charts
from t2ibench.report.svg import Chart


def table_rows(found: Analysis) -> dict[str, list[list[Any]]]:
    """``leaderboard`` and ``verdicts``: heading, then rows of numbers and words."""
    board = found.board
    measured = [column.key for column in board.columns]
    spread = [f"{key}/{part}" for key in measured for part in ("ci_low", "ci_high", "sd")]
    costs = list(dict.fromkeys(name for group in board.groups for name in cost_values(group)))
    standings = [f"pareto: {COSTS[front.cost]}" for front in found.pareto]
    rows: list[list[Any]] = [["model", "family", "seeds", *measured, *spread, *costs, *standings]]
    for group in board.groups:
        cells = [group.cell(key) for key in measured]
        ends = [(None,) * 3 if c is None else (c.low, c.high, c.sd) for c in cells]
        rows.append(
            [group.label, group.family, group.seeds_text]
            + [None if cell is None else cell.value for cell in cells]
            + [end for of_cell in ends for end in of_cell]
            + [cost_values(group).get(name) for name in costs]
            + [front.standing(group.label) for front in found.pareto]
        )
    verdicts: list[list[Any]] = [
        ["first", "second", "metric", "difference", "ci_low", "ci_high", "p_holm", "test",
         "verdict", "key"]
    ]  # fmt: skip
    for pair in found.pairs:
        for row in pair.differences:
            verdicts.append(
                [pair.first, pair.second, metric_of(row.key).title]
                + [row.difference, row.low, row.high, row.adjusted]
                + [row.method, row.verdict(pair.first, pair.second), row.key]
            )
    return {"leaderboard": rows, "verdicts": verdicts}


def chart_pages(found: Analysis) -> dict[str, str]:
    """Quality against cost and against alignment, each a self-contained HTML page by title."""
    board = found.board
    return {
        chart.title: _page(chart, fragments.legend(colour_of(board)))
        for chart in [*cost_charts(board), *front_charts(board)]
    }


def _page(chart: Chart, legend: str) -> str:
    style = (files("t2ibench.report") / "page.css").read_text(encoding="utf-8")
    return (
        f'<!doctype html><meta charset="utf-8"><title>{fragments.escape(chart.title)}</title>'
        f"<style>{style}</style>{legend}{fragments.charts([chart])}"
    )
