"""The comparison on a terminal."""

from __future__ import annotations

import io
from collections.abc import Sequence

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from t2ibench.report.analysis import Analysis
from t2ibench.report.columns import metric_of, titles_of
from t2ibench.report.compare import Comparison, family_sentence
from t2ibench.report.formats import (
    COSTS,
    caption,
    partial_text,
    sd_text,
    spread_text,
    titled_tables,
)
from t2ibench.report.groups import Cell, Group
from t2ibench.report.ranking import front_sentences
from t2ibench.report.tables import Column, Leaderboard


def terminal_tables(found: Analysis) -> list[Table]:
    """Scores and costs as rich tables; print them with a ``rich.console.Console``."""
    board, letters = found.board, instrument_letters(found.board)
    by = ", ".join(f"{letter} = {name}" for name, letter in letters.items())
    said = f"{by}.\n{caption(found)}\n* see the notes of the Markdown table or the page."
    scores = Table(
        title="Scores", title_justify="left", caption=escape(said), caption_justify="left"
    )
    scores.add_column("Model", style="bold", no_wrap=True)
    for column in board.columns:
        head = (
            f"{column.metric.title}\n[dim]{column.metric.arrow} {letters[column.instrument]}[/dim]"
        )
        scores.add_column(head, justify="right", no_wrap=True)
    for group in board.groups:
        scores.add_row(
            f"{escape(group.label)}\n[dim]{escape(group.family)}, {group.seeds_text}[/dim]",
            *(
                _rich_cell(group.cell(c.key), c, found.leads(group, c), group)
                for c in board.columns
            ),
        )
    if board.references:
        scores.add_section()
    for row in board.references:
        scores.add_row(
            f"[italic]{escape(row.label)}[/italic]",
            *(_rich_cell(row.cell(column.key), column, False) for column in board.columns),
        )
    costs = Table(title="Costs (first stage included)", title_justify="left")
    costs.add_column("Model", style="bold", no_wrap=True)
    for title, _ in COSTS:
        costs.add_column(title, justify="right")
    for group in board.groups:
        costs.add_row(escape(group.label), *(text(group) for _, text in COSTS))
    return [scores, costs]


def instrument_letters(board: Leaderboard) -> dict[str, str]:
    """A letter for each instrument of the columns, explained under the table."""
    names = dict.fromkeys(column.instrument for column in board.columns)
    return {name: chr(ord("a") + i) for i, name in enumerate(names)}


def terminal_text(found: Analysis, width: int = 160, colour: bool = False) -> str:
    """The terminal tables as text of a given width, then what is lacking."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=colour, no_color=not colour)
    for table in terminal_tables(found):
        console.print(table)
    for sentence in found.cautions():
        console.print(sentence, markup=False)
    return buffer.getvalue()


LEAST_WIDTH, WIDTH_WITH_TEST = 92, 112
"""Of a table of verdicts: a narrower terminal breaks its lines; without the column of tests."""


def comparison_text(comparisons: Sequence[Comparison], width: int = 120) -> str:
    """Each pair as a table of verdicts, then what differs in the configurations."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=max(width, LEAST_WIDTH), no_color=True)
    for pair in comparisons:
        first, second = escape(pair.first), escape(pair.second)
        table = Table(title=f"{first} against {second}", title_justify="left")
        for name, justify in (
            ("Metric", "left"),
            (first, "right"),
            (second, "right"),
            ("Difference, 95% interval", "right"),
            ("p (Holm)", "right"),
        ):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        if width >= WIDTH_WITH_TEST:
            table.add_column("Test")
        table.add_column("Verdict", no_wrap=True)
        titles = titles_of([row.key for row in pair.differences])
        for row in pair.differences:
            metric = metric_of(row.key)
            gap, low, high = (
                metric.text(v, like=row.first) for v in (row.difference, row.low, row.high)
            )
            test = [row.method.split(" (")[0]] if width >= WIDTH_WITH_TEST else []
            table.add_row(
                titles[row.key],
                metric.text(row.first),
                metric.text(row.second),
                f"{gap} \\[{low}, {high}]",
                f"{row.adjusted:.3f}" if row.adjusted >= 0.001 else "< 0.001",
                *test,
                escape(row.verdict(pair.first, pair.second)),
            )
        console.print(table)
        if pair.caveat:
            console.print(pair.caveat, markup=False)
        for key, one, other in pair.configuration:
            console.print(f"  {key}: {one} | {other}", markup=False)
        console.print()
    if comparisons:
        console.print(family_sentence(comparisons), markup=False)
    return buffer.getvalue()


def ranking_text(found: Analysis, width: int = 120) -> str:
    """Probabilities of being the best, and fronts, for the terminal."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, no_color=True)
    for title, rows in titled_tables(found):
        table = Table(title=title, title_justify="left")
        for position, name in enumerate(rows[0]):
            table.add_column(name, justify="right" if position else "left")
        for row in rows[1:]:
            table.add_row(*map(escape, row))
        console.print(table)
    for sentence in front_sentences(found.fronts):
        console.print(sentence, markup=False)
    return buffer.getvalue()


def _rich_cell(cell: Cell | None, column: Column, leads: bool, group: Group | None = None) -> str:
    if cell is None:
        return "–"
    value = column.text(cell.value)
    shown = f"[bold green]{value}[/bold green]" if leads else value
    flag = "*" if cell.note else ""
    below = [spread_text(cell, column), sd_text(cell, column), partial_text(cell, group)]
    return f"{shown}{flag}\n[dim]" + "\n".join(line for line in below if line) + "[/dim]"
