"""The comparison as Markdown tables for a README."""

from __future__ import annotations

from collections.abc import Sequence

from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.table import Cell, Column, Table


def to_markdown(content: Content) -> str:
    """Scores, costs, ranks and fronts, then the keys as footnotes and what must be known."""
    blocks = [markdown_table(content.scores), markdown_table(content.costs)]
    blocks.append("\n".join(content.costs.notes))
    for table in content.standings:
        blocks += [f"{table.title}:", markdown_table(table), *["\n".join(table.notes)]]
    blocks.append(content.caption())
    numbered = [column for column in content.scores.columns if column.footnote]
    blocks.append("\n".join(f"{column.footnote}. `{column.key}`" for column in numbered))
    blocks.append("\n".join(content.cautions))
    return "\n\n".join(block for block in blocks if block) + "\n"


def markdown_table(table: Table) -> str:
    """A neutral table as Markdown."""
    shown = table.printed
    lines = [
        _line([table.corner, *map(_heading, shown.columns)]),
        "|---|" + "".join("---|" if column.words else "---:|" for column in shown.columns),
    ]
    for row in shown.rows:
        label = f"*{row.label}*" if row.reference else row.label
        label = f"**{label}**" if row.heading else label
        lines.append(_line([label, *map(_cell, row.cells)]))
    return "\n".join(lines)


def _heading(column: Column) -> str:
    """The title with its arrow; the instrument stands on a second line."""
    number = f"<sup>{column.footnote}</sup>" if column.footnote else ""
    return column.heading + (f"<br>{column.instrument}" if column.instrument else "") + number


def _cell(cell: Cell) -> str:
    r"""``**12.3 ± 0.4 (sd 0.3)**\* (2 of 3 seeds)``, the star where a note is below."""
    deviation = f"({cell.deviation})" if cell.deviation else ""
    measured = " ".join(text for text in (cell.text, cell.spread, deviation) if text)
    measured = f"**{measured}**" if cell.lead else measured
    measured += r"\*" if cell.note else ""
    return f"{measured} ({cell.partial})" if cell.partial else measured


def _line(cells: Sequence[str]) -> str:
    """A row of a Markdown table; a bar in a cell would end it."""
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
