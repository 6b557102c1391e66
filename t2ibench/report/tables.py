"""The leaderboard: runs that differ only in their seed become one row with its interval.

Each column holds one score key and nothing else, so numbers measured in different ways
never stand under one heading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from t2ibench.core.errors import RunError
from t2ibench.evaluation.results import Scores, metrics_of
from t2ibench.report.columns import MAIN, Metric, in_order, instrument_of, metric_of
from t2ibench.report.folders import ReportRun
from t2ibench.report.groups import EXTERNAL, Cell, Group, aggregate, group_runs
from t2ibench.report.holes import Hole
from t2ibench.report.keys import check_shared, shared_keys


@dataclass(frozen=True)
class Column:
    """One score key of the leaderboard.

    Attributes:
        key: the whole key, for the footnote.
        metric: how it is printed.
        instrument: the network or grader that measured it.
        like: a value whose decimals all of the column are printed with.
    """

    key: str
    metric: Metric
    instrument: str
    like: float

    def text(self, value: float) -> str:
        """The printed number."""
        return self.metric.text(value, self.like)


@dataclass(frozen=True)
class ReferenceRow:
    """A row that is no model: a floor, a ceiling or the ground truth.

    Attributes:
        label: what it is.
        meaning: one sentence.
        scores: score key -> score.
    """

    label: str
    meaning: str
    scores: Scores

    def cell(self, key: str) -> Cell | None:
        """The cell of a score key."""
        return aggregate([self.scores[key]]) if key in self.scores else None


@dataclass(frozen=True)
class Leaderboard:
    """Everything the tables print.

    Attributes:
        groups: model rows, the best on the first column first.
        columns: of the main table.
        references: floor, ceilings, ground truth.
        all_keys: every score key, for the CSV.
        facts: data set, protocol and budget when all runs share them.
        strays: runs without scores that belong to no row.
    """

    groups: tuple[Group, ...]
    columns: tuple[Column, ...]
    references: tuple[ReferenceRow, ...]
    all_keys: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    strays: tuple[Hole, ...] = ()


def leaderboard(
    runs: Sequence[ReportRun], holes: Sequence[Hole] = (), metrics: Sequence[str] = ()
) -> Leaderboard:
    """Builds the tables' content from runs.

    Args:
        runs: the scored ones.
        holes: the others, which mark the rows they belong to.
        metrics: names or whole keys of the columns; none: ``MAIN``.

    Raises:
        RunError: no runs.
        ScoreError: two groups share no score, or not one of ``metrics``.
    """
    if not runs:
        raise RunError("a leaderboard needs at least one scored run.")
    groups = group_runs(runs, holes)
    check_shared(groups)
    scores = [run.scores.chosen.scores for run in runs]
    keys = in_order(metrics_of(scores))
    if metrics:
        keys = main = in_order([key for name in metrics for key in shared_keys(groups, name)])
    else:
        main = [key for key in keys if metric_of(key).name in MAIN]
    columns = tuple(_column(key, groups) for key in main)
    if columns:
        # Foreign images stand below: nobody knows their data, budget and seeds.
        groups.sort(key=lambda group: (group.family == EXTERNAL, *_rank(group, columns[0])))
    return Leaderboard(
        tuple(groups),
        columns,
        tuple(_references(groups)),
        tuple(keys),
        _shared_facts(runs),
        tuple(hole for hole in holes if not any(hole in group.holes for group in groups)),
    )


def _column(key: str, groups: Sequence[Group]) -> Column:
    """A column; its smallest model score decides the decimals."""
    values = [abs(cell.value) for group in groups if (cell := group.cell(key)) is not None]
    return Column(key, metric_of(key), instrument_of(key), min(values))


def _rank(group: Group, column: Column) -> tuple[bool, float]:
    cell = group.cell(column.key)
    if cell is None:
        return (True, 0.0)
    return (False, cell.value if column.metric.better == "lower" else -cell.value)


def _references(groups: Sequence[Group]) -> list[ReferenceRow]:
    """Shared floors and ground truths once, each ceiling by the groups that stand on it."""
    rows: list[ReferenceRow] = []
    floor = _merged(groups, "floor")
    if floor:
        meaning = "Other real images of the same number: what a perfect model would score."
        rows.append(ReferenceRow("Real vs real", meaning, floor))
    for ceiling, labels in _ceilings(groups):
        more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        meaning = (
            f"Real images through the first stage and back: what {', '.join(labels)} cannot beat."
        )
        rows.append(ReferenceRow(f"First stage of {labels[0]}{more}", meaning, ceiling))
    truth = _merged(groups, "ground_truth")
    if truth:
        meaning = "The real images of the prompts: what the instruments say of the truth."
        rows.append(ReferenceRow("Real images", meaning, truth))
    return rows


def _ceilings(groups: Sequence[Group]) -> list[tuple[Scores, list[str]]]:
    """Each first stage's scores with the labels of the groups on it."""
    found: list[tuple[Scores, list[str]]] = []
    for group in groups:
        ceiling = group.runs[0].scores.reference.get("ceiling")
        if not ceiling:
            continue
        labels = next((labels for scores, labels in found if scores == ceiling), None)
        if labels is None:
            found.append((ceiling, [group.label]))
        else:
            labels.append(group.label)
    return found


def _merged(groups: Sequence[Group], name: str) -> Scores:
    """A reference that runs share; keys tell different ones apart."""
    merged: Scores = {}
    for group in groups:
        for run in group.runs:
            merged |= run.scores.reference.get(name, {})
    return merged


def _shared_facts(runs: Sequence[ReportRun]) -> dict[str, Any]:
    """Facts that all runs agree on; the others are left out."""
    described = [
        {
            "data": run.scores.model.get("data"),
            "text": run.scores.model.get("text"),
            "protocol": run.scores.protocol,
            "budget": run.scores.budget,
            "hardware": (run.scores.cost.get("hardware") or {}).get("device"),
        }
        for run in runs
    ]
    first = described[0]
    return {
        name: value
        for name, value in first.items()
        if value and all(d[name] == value for d in described)
    }
