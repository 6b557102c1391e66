"""The comparison as two CSV files, every digit kept."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator, Mapping, Sequence

from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.sentences import absences
from t2ibench.reporting.render.table import Cell, Column, Row, Table

LEADERBOARD_COLUMNS = (
    "row", "family", "kind", "quantity", "value", "ci_low", "ci_high", "sd", "seeds",
    "planned_seeds", "basis", "note", "key",
)  # fmt: skip

COMPARISON_COLUMNS = (
    "first", "second", "metric", "first_value", "second_value", "difference", "ci_low", "ci_high",
    "p_value", "p_holm", "test", "verdict", "first_seeds", "second_seeds", "key",
)  # fmt: skip


def leaderboard_csv(content: Content) -> str:
    """Scores, references, costs, ranks and fronts in long form: a line a row and column.

    Scores that could not be computed have a line without a value and the reason as its note.
    """
    groups = {
        group.label: {"family": group.family, "planned_seeds": group.planned}
        for group in content.analysis.leaderboard.groups
    }
    tables = (content.scores, content.costs, content.ranks, content.knob_fronts, content.pareto)
    lines = (
        {"row": row.label} | ({} if row.reference else groups[row.label]) | line
        for table in tables
        for row in table.rows
        for line in _lines(table, row)
    )
    absent = (
        {"row": group.label, **groups[group.label], "kind": "absent", "quantity": name}
        | {"seeds": runs, "note": reason}
        for group in content.analysis.leaderboard.groups
        for reason, (names, runs) in absences(group).items()
        for name in names
    )
    by = content.analysis.leaderboard.by
    sections = (
        {"row": group.label, **groups[group.label], "kind": "section", "quantity": by}
        | {"value": group.fact(by)}
        for group in content.analysis.leaderboard.groups
        if by
    )
    return _csv(LEADERBOARD_COLUMNS, (*lines, *absent, *sections))


def comparisons_csv(content: Content) -> str:
    """A line a pair and score: the difference, its test and the verdict in words."""
    return _csv(COMPARISON_COLUMNS, comparison_rows(content))


def comparison_rows(content: Content) -> Iterator[dict[str, object]]:
    """``COMPARISON_COLUMNS`` of every pair and score."""
    for pair in content.pairs:
        names = [column.name for column in pair.verdicts.columns]
        for row in pair.verdicts.rows:
            difference = row.cells[names.index("difference")]
            yield {
                "first": pair.first,
                "second": pair.second,
                **pair.verdicts.values(row),
                "ci_low": difference.low,
                "ci_high": difference.high,
            }


def _lines(table: Table, row: Row) -> Iterator[dict[str, object]]:
    """A line for each cell that holds something and has no column of its own."""
    for column, cell in zip(table.columns, row.cells, strict=True):
        if cell.value is not None and not column.folded:
            yield _line(column, cell, row)


def _line(column: Column, cell: Cell, row: Row) -> dict[str, object]:
    return {
        "kind": "reference" if row.reference else column.kind,
        "quantity": column.quantity or column.name,
        "value": cell.value,
        "ci_low": cell.low,
        "ci_high": cell.high,
        "sd": cell.sd,
        "seeds": cell.seeds,
        "basis": cell.basis,
        "note": cell.note,
        "key": column.key,
    }


def _csv(columns: Sequence[str], rows: Iterable[Mapping[str, object]]) -> str:
    """Rows under a heading; numbers with every digit, None as nothing."""
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, columns, lineterminator="\n")
    writer.writeheader()
    for row in rows:
        writer.writerow({name: _text(row.get(name)) for name in columns})
    return buffer.getvalue()


def _text(value: object) -> object:
    if isinstance(value, float):
        return repr(float(value))
    return "" if value is None else value
