"""The leaderboard as a terminal table, CSV and Markdown."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.table import Table

from t2ibench.report.columns import count_text, flops_text, metric_of, seconds_text
from t2ibench.report.compare import Comparison
from t2ibench.report.ranking import (
    best_table,
    front_sentences,
    front_summaries,
    front_table,
    rankings,
)
from t2ibench.report.tables import Cell, Column, Group, Leaderboard, ReferenceRow

BEST = "Probability of being the best"
AREA = "Share of the box of all fronts that a front dominates (validation prompts)"


def knob_text(group: Group) -> str:
    """``guidance_scale 1.5``, or the range over training seeds."""
    values = sorted({v for run in group.runs if (v := run.scores.chosen.value) is not None})
    if not values:
        return "–"
    name = group.runs[0].scores.knob["name"]
    return f"{name} " + "–".join(f"{value:g}" for value in dict.fromkeys([values[0], values[-1]]))


COSTS: tuple[tuple[str, Callable[[Group], str]], ...] = (
    ("Knob", knob_text),
    ("Parameters", lambda g: count_text(g.parameters)),
    ("Train images", lambda g: count_text(g.cost("train_images"))),
    ("Train FLOPs", lambda g: flops_text(g.training_flops)),
    ("Train time", lambda g: seconds_text(g.training_seconds)),
    ("FLOPs/image", lambda g: flops_text(g.cost("sample_flops_per_image"))),
    ("Time/image, batch 1", lambda g: seconds_text(g.cost("seconds_per_image_batch_1"))),
    ("Time/image, best", lambda g: seconds_text(g.cost("seconds_per_image_best"))),
)
"""Cost columns: heading and text of a group."""


def cell_text(cell: Cell | None, column: Column) -> str:
    """``12.3 ± 0.4``; a dash where there is no score."""
    if cell is None:
        return "–"
    return f"{column.text(cell.value)} {spread_text(cell, column)}"


def spread_text(cell: Cell, column: Column) -> str:
    """``± 0.4``: half the 95% interval."""
    return f"±\u2009{column.text((cell.high - cell.low) / 2)}"


def interval_text(cell: Cell, column: Column) -> str:
    """``[11.9, 12.7]``."""
    return f"[{column.text(cell.low)}, {column.text(cell.high)}]"


def heading(column: Column) -> str:
    """Title with its arrow; the instrument stands on a second line."""
    return f"{column.metric.title} {column.metric.arrow}"


def terminal_tables(board: Leaderboard) -> list[Table]:
    """Scores and costs as rich tables; print them with a ``rich.console.Console``."""
    by = ", ".join(f"{letter} = {name}" for name, letter in instrument_letters(board).items())
    said = f"{by}.\n{caption(board)}\n* see the notes of the Markdown table or the page."
    scores = Table(title="Scores", title_justify="left", caption=said, caption_justify="left")
    scores.add_column("Model", style="bold", no_wrap=True)
    letters = instrument_letters(board)
    for column in board.columns:
        head = (
            f"{column.metric.title}\n[dim]{column.metric.arrow} {letters[column.instrument]}[/dim]"
        )
        scores.add_column(head, justify="right", no_wrap=True)
    for group in board.groups:
        scores.add_row(
            f"{group.label}\n[dim]{group.family}, {_seeds(group)}[/dim]",
            *(
                _rich_cell(group.cell(c.key), c, group.label in board.leaders(c))
                for c in board.columns
            ),
        )
    if board.references:
        scores.add_section()
    for row in board.references:
        scores.add_row(
            f"[italic]{row.label}[/italic]",
            *(_rich_cell(row.cell(column.key), column, False) for column in board.columns),
        )
    costs = Table(title="Costs (first stage included)", title_justify="left")
    costs.add_column("Model", style="bold", no_wrap=True)
    for title, _ in COSTS:
        costs.add_column(title, justify="right")
    for group in board.groups:
        costs.add_row(group.label, *(text(group) for _, text in COSTS))
    return [scores, costs]


def instrument_letters(board: Leaderboard) -> dict[str, str]:
    """A letter for each instrument of the columns, explained under the table."""
    names = dict.fromkeys(column.instrument for column in board.columns)
    return {name: chr(ord("a") + i) for i, name in enumerate(names)}


def terminal_text(board: Leaderboard, width: int = 160, colour: bool = False) -> str:
    """The terminal tables as text of a given width."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, force_terminal=colour, no_color=not colour)
    for table in terminal_tables(board):
        console.print(table)
    return buffer.getvalue()


def comparison_text(comparisons: Sequence[Comparison], width: int = 120) -> str:
    """Each pair as a table of verdicts, then what differs in the configurations."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, no_color=True)
    for pair in comparisons:
        table = Table(title=f"{pair.first} against {pair.second}", title_justify="left")
        for name, justify in (
            ("Metric", "left"),
            (pair.first, "right"),
            (pair.second, "right"),
            ("Difference, 95% interval", "right"),
            ("p (Holm)", "right"),
            ("Verdict", "left"),
        ):
            table.add_column(name, justify=justify)  # type: ignore[arg-type]
        for row in pair.differences:
            metric = metric_of(row.key)
            gap, low, high = (
                metric.text(v, like=row.first) for v in (row.difference, row.low, row.high)
            )
            table.add_row(
                f"{metric.title} {metric.arrow}",
                metric.text(row.first),
                metric.text(row.second),
                f"{gap} \\[{low}, {high}]",
                f"{row.adjusted:.3f}" if row.adjusted >= 0.001 else "< 0.001",
                row.verdict(pair.first, pair.second),
            )
        console.print(table)
        if pair.caveat:
            console.print(pair.caveat, markup=False)
        for key, first, second in pair.configuration:
            console.print(f"  {key}: {first} | {second}", markup=False)
        console.print()
    return buffer.getvalue()


def ranking_text(board: Leaderboard, width: int = 120) -> str:
    """Probabilities of being the best, and fronts, for the terminal."""
    buffer = io.StringIO()
    console = Console(file=buffer, width=width, no_color=True)
    fronts = front_summaries(board)
    for title, rows in ((BEST, best_table(rankings(board), board)), (AREA, front_table(fronts))):
        if rows:
            table = Table(title=title, title_justify="left")
            for position, name in enumerate(rows[0]):
                table.add_column(name, justify="right" if position else "left")
            for row in rows[1:]:
                table.add_row(*row)
            console.print(table)
    for sentence in front_sentences(fronts):
        console.print(sentence, markup=False)
    return buffer.getvalue()


def to_csv(board: Leaderboard) -> str:
    """Long form: one line a row and score key, then the costs; every digit kept."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(
        ["row", "family", "kind", "quantity", "value", "ci_low", "ci_high", "seeds", "basis",
         "note", "key"]
    )  # fmt: skip
    for group in board.groups:
        for key in board.all_keys:
            _csv_row(writer, group.label, group.family, "score", key, group.cell(key))
        for name, value in _cost_values(group).items():
            if value is not None:
                writer.writerow(
                    [group.label, group.family, "cost", name, repr(value), "", "", group.seeds]
                    + ["", "", ""]
                )
    for row in board.references:
        for key in row.scores:
            _csv_row(writer, row.label, "", "reference", key, row.cell(key))
    for ranking in rankings(board):
        for label, shares in ranking.probabilities.items():
            for rank, share in enumerate(shares, 1):
                name = metric_of(ranking.key).name
                writer.writerow(
                    [label, "", f"probability of rank {rank}", name, repr(share)]
                    + ["", "", "", ranking.basis, "", ranking.key]
                )
    for summary in front_summaries(board):
        for label, share in summary.volumes.items():
            key = f"{summary.y_key} {summary.x_key}"
            writer.writerow(
                [label, "", "front", "hypervolume share", repr(share), "", "", "", "", "", key]
            )
    return buffer.getvalue()


def to_markdown(board: Leaderboard) -> str:
    """Two Markdown tables and the keys as footnotes."""
    titles = [
        f"{heading(c)}<br>{c.instrument}<sup>{i}</sup>" for i, c in enumerate(board.columns, 1)
    ]
    lines = [
        "| Model | Family | Seeds | " + " | ".join(titles) + " |",
        "|---|---|---|" + "---:|" * len(titles),
    ]
    for group in board.groups:
        cells = []
        for column in board.columns:
            text = cell_text(group.cell(column.key), column)
            cells.append(f"**{text}**" if group.label in board.leaders(column) else text)
        row = [group.label, group.family, str(group.seeds), *cells]
        lines.append("| " + " | ".join(row) + " |")
    for reference in board.references:
        cells = [cell_text(reference.cell(c.key), c) for c in board.columns]
        lines.append("| " + " | ".join([f"*{reference.label}*", "", "", *cells]) + " |")
    lines += ["", "| Model | " + " | ".join(title for title, _ in COSTS) + " |"]
    lines.append("|---|" + "---:|" * len(COSTS))
    for group in board.groups:
        lines.append("| " + " | ".join([group.label, *(text(group) for _, text in COSTS)]) + " |")
    fronts = front_summaries(board)
    for title, rows in ((BEST, best_table(rankings(board), board)), (AREA, front_table(fronts))):
        if rows:
            lines += ["", f"{title}:", "", "| " + " | ".join(rows[0]) + " |"]
            lines.append("|---|" + "---:|" * (len(rows[0]) - 1))
            lines += ["| " + " | ".join(row) + " |" for row in rows[1:]]
    lines += ["", *front_sentences(fronts)] if fronts else []
    lines += ["", caption(board), ""]
    lines += [f"{i}. `{column.key}`" for i, column in enumerate(board.columns, 1)]
    notes = board_notes(board)
    lines += ["", *notes] if notes else []
    return "\n".join(lines) + "\n"


def board_notes(board: Leaderboard) -> list[str]:
    """Warnings that belong to scores: leaks, underdetermined distances."""
    notes: dict[str, list[str]] = {}
    rows: list[Group | ReferenceRow] = [*board.groups, *board.references]
    for row in rows:
        for column in board.columns:
            cell = row.cell(column.key)
            if cell is not None and cell.note:
                where = f"{column.metric.title} ({column.instrument}), {row.label}"
                notes.setdefault(cell.note, []).append(where)
    return [f"{note}: {'; '.join(where)}." for note, where in notes.items()]


def caption(board: Leaderboard) -> str:
    """What the brackets and the bold type mean."""
    basis = {cell.basis for g in board.groups for c in board.columns if (cell := g.cell(c.key))}
    said = "±: half the 95% interval"
    if basis == {"training seeds"}:
        said += " over training seeds (Student's t)"
    elif basis == {"samples"}:
        said += " over samples of one training seed; it does not cover another training"
    else:
        said += " over training seeds, or over samples where a row has 1 seed"
    return f"{said}. Bold: the best and those whose interval meets its interval."


def _seeds(group: Group) -> str:
    return f"{group.seeds} seed{'s' if group.seeds != 1 else ''}"


def _rich_cell(cell: Cell | None, column: Column, leads: bool) -> str:
    if cell is None:
        return "–"
    value = column.text(cell.value)
    shown = f"[bold green]{value}[/bold green]" if leads else value
    flag = "*" if cell.note else ""
    return f"{shown}{flag}\n[dim]{spread_text(cell, column)}[/dim]"


def _cost_values(group: Group) -> dict[str, float | None]:
    return {
        "parameters": group.parameters,
        "train_images": group.cost("train_images"),
        "train_flops_with_first_stage": group.training_flops,
        "train_seconds_with_first_stage": group.training_seconds,
        "first_stage_flops": group.cost("first_stage_flops"),
        "sample_flops_per_image": group.cost("sample_flops_per_image"),
        "seconds_per_image_batch_1": group.cost("seconds_per_image_batch_1"),
        "seconds_per_image_best": group.cost("seconds_per_image_best"),
        "peak_memory_gib": group.cost("peak_memory_gib"),
        "joules_per_image": group.cost("joules_per_image"),
    }


def _csv_row(
    writer: object, label: str, family: str, kind: str, key: str, cell: Cell | None
) -> None:
    if cell is None:
        return
    name = metric_of(key).name
    numbers = [repr(cell.value), repr(cell.low), repr(cell.high)]
    row = [label, family, kind, name, *numbers, cell.seeds, cell.basis, cell.note, key]
    writer.writerow(row)  # type: ignore[attr-defined]
