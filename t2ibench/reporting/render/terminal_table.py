"""A neutral table for a terminal, in as many parts below each other as its width asks for."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from textwrap import wrap

from rich.cells import cell_len
from rich.table import Table as RichTable
from rich.text import Text

from t2ibench.reporting.render.table import Cell, Column, Row, Table

LEAST_LABEL = 14
"""Width that labels keep when a narrow terminal breaks them into lines."""

LEAST_HEADING, MOST_WORD = 11, 16
"""Width up to which a heading stays on one line, and up to which a word of it is not broken."""


def fitted_tables(
    table: Table, width: int, mark: str = "", stacked: bool = False
) -> list[RichTable]:
    """Draws a table in parts that fit, every row in each; no number is cut.

    Args:
        table: what is shown.
        width: of the terminal, in characters.
        mark: printed before leading values, beside their bold type.
        stacked: whether intervals stand below their values, not beside them.
    """
    shown, letters = table.printed, instrument_letters(table)
    names = [column.name for column in shown.unfolded.columns]

    def part(count: int) -> _Part:
        wanted = set(names[:count])
        columns = shown.where(lambda column: column.folded or column.name in wanted)
        return _Part(columns, letters, mark, stacked)

    parts = []
    while names:
        widest = part(len(names))
        if widest.least > width:
            count = 1
            while part(count + 1).least <= width:
                count += 1
            widest = part(count)
        parts.append(widest.drawn(width))
        names = names[widest.count :]
    return parts


def instrument_letters(table: Table) -> dict[str, str]:
    """A letter for each instrument of the printed columns."""
    names = dict.fromkeys(c.instrument for c in table.printed.columns if c.instrument)
    return {name: chr(ord("a") + position) for position, name in enumerate(names)}


class _Part:
    """Some columns of a neutral table as rich prints them, measured."""

    def __init__(self, table: Table, letters: Mapping[str, str], mark: str, stacked: bool) -> None:
        body = table.unfolded
        self.corner, self.columns, self.rows = table.corner, body.columns, body.rows
        self.labels = [_label(row, table.folded(row)) for row in table.rows]
        self.cells = [[_cell(cell, mark, stacked) for cell in row.cells] for row in body.rows]
        widest = [max(map(_width, column)) for column in zip(*self.cells, strict=True)]
        self.headings = [
            _heading(column, letters, width)
            for column, width in zip(self.columns, widest, strict=True)
        ]
        self.natural = [max(w, _width(h)) for w, h in zip(widest, self.headings, strict=True)]
        self.label = max(map(_width, [Text(table.corner), *self.labels]))

    @property
    def count(self) -> int:
        """How many columns it has beside that of the labels."""
        return len(self.columns)

    @property
    def least(self) -> int:
        """The width without which it does not fit; padding and rule take 3 a column."""
        return sum(self._least_widths()) + 3 * (self.count + 1) + 1

    def drawn(self, width: int) -> RichTable:
        """The table; where it is narrow, labels and words share what numbers leave them."""
        natural = [self.label, *self.natural]
        widths = _grown(self._least_widths(), natural, width - self.least)
        made = RichTable()
        made.add_column(self.corner, style="bold", overflow="fold", width=widths[0])
        for column, heading, room in zip(self.columns, self.headings, widths[1:], strict=True):
            made.add_column(
                heading,
                justify="left" if column.words else "right",
                no_wrap=not column.least_width,
                overflow="fold",
                width=room,
            )
        references = False
        for row, text, cells in zip(self.rows, self.labels, self.cells, strict=True):
            if row.heading or (row.reference and not references):
                made.add_section()
                references = row.reference
            made.add_row(text, *cells)
        return made

    def _least_widths(self) -> list[int]:
        """Of the labels and of each column."""
        return [
            min(self.label, LEAST_LABEL),
            *(
                min(width, column.least_width or width)
                for column, width in zip(self.columns, self.natural, strict=True)
            ),
        ]


def _grown(least: Sequence[int], natural: Sequence[int], spare: int) -> list[int]:
    """Widths that share what is spare, none wider than natural; those that lack least first."""
    widths = list(least)
    lacking = sorted((n - w, at) for at, (w, n) in enumerate(zip(least, natural, strict=True)))
    for served, (lack, at) in enumerate(lacking):
        more = min(lack, max(0, spare) // (len(lacking) - served))
        widths[at] += more
        spare -= more
    return widths


def _label(row: Row, below: str) -> Text:
    """What the row is, its family and seeds below."""
    made = Text(row.label, style="italic" if row.reference or row.heading else "")
    if below:
        made.append(f"\n{below}", style="not bold dim")
    return made


def _heading(column: Column, letters: Mapping[str, str], widest: int) -> Text:
    """The title in lines; its arrow and the instrument's letter below where there are letters."""
    letter = letters.get(column.instrument, "")
    title = column.title if letter else column.heading
    longest = min(MOST_WORD, max(map(len, title.split())))
    room = max(widest, LEAST_HEADING, longest)
    lines = title if column.least_width else "\n".join(wrap(title, room))
    below = f"\n{column.arrow} {letter}".replace("\n ", "\n") if letter else ""
    return Text.assemble(lines, (below, "dim"))


def _cell(cell: Cell, mark: str, stacked: bool) -> Text:
    """The value, flagged where it has a note, with its interval beside or below."""
    made = Text(f"{mark}{cell.text}" if cell.lead else cell.text)
    if cell.lead:
        made.stylize("bold green")
    made.append("*" if cell.note else "")
    for detail in cell.details:
        made.append(f"\n{detail}" if stacked else f" {detail}", style="dim" if stacked else "")
    return made


def _width(text: Text) -> int:
    return max(map(cell_len, text.plain.split("\n")))
