"""The neutral table: built once from the analysis, then only rendered.

A cell holds a number with all that qualifies it, every digit for programs and the printed texts
for people, so that no renderer rounds, flags or explains anything by itself.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

from t2ibench.reporting.render.numbers import NOTHING

WORDS_WIDTH = 8
"""Characters that a column of words keeps when it breaks into lines."""


@dataclass(frozen=True)
class Cell:
    """One field of a table.

    Attributes:
        text: the number or the words, as printed.
        value: the same for programs, every digit; None where there is nothing.
        low: lower end of the 95% interval; None without one.
        high: upper end.
        sd: standard deviation over training seeds; None with one.
        seeds: how many training seeds it rests on; None where seeds play no part.
        basis: over what the interval generalises.
        spread: the interval as printed beside the value: ``± 0.4``, or ``[11.9, 12.7]``.
        deviation: the standard deviation as printed: ``sd 0.3``.
        partial: ``2 of 3 seeds`` where the cell rests on fewer seeds than its row.
        interval: the interval's ends as printed.
        note: what a reader must know.
        lead: whether it is the best, or not distinguishable from it.
    """

    text: str = NOTHING
    value: float | str | None = None
    low: float | None = None
    high: float | None = None
    sd: float | None = None
    seeds: int | None = None
    basis: str = ""
    spread: str = ""
    deviation: str = ""
    partial: str = ""
    interval: str = ""
    note: str = ""
    lead: bool = False

    @property
    def details(self) -> tuple[str, ...]:
        """What is printed small beside or below the value."""
        return tuple(text for text in (self.spread, self.deviation, self.partial) if text)


def number(value: float | None, text: Callable[[float], str]) -> Cell:
    """A cell of a number alone; a dash where it is unknown."""
    return Cell() if value is None else Cell(text(value), value)


def words(text: str) -> Cell:
    """A cell of words; a dash where there are none."""
    return Cell(text, text) if text else Cell()


BLANK = Cell("")
"""A cell of a row to which the column does not apply."""


@dataclass(frozen=True)
class Column:
    """One column of a table, beside that of the rows' labels.

    Attributes:
        name: for programs, unique in its table: a score key, ``train_images``.
        title: heading.
        kind: what its cells are, for programs: ``score``, ``cost``, ``pareto``.
        quantity: what is measured, for programs: ``fd``; the name where empty.
        arrow: which direction is better; empty where neither is.
        group: heading over neighbouring columns.
        instrument: the network or grader that measured it.
        key: score key.
        meaning: one sentence for the reader.
        footnote: number of the key's footnote; 0 for none.
        words: whether the cells are words, aligned to the left.
        least_width: characters down to which its words may break into lines; 0: they may not.
        printed: whether it is in tables for people; else for programs alone.
        folded: whether it may be printed under the rows' labels, where width is dear.
    """

    name: str
    title: str
    kind: str = ""
    quantity: str = ""
    arrow: str = ""
    group: str = ""
    instrument: str = ""
    key: str = ""
    meaning: str = ""
    footnote: int = 0
    words: bool = False
    least_width: int = 0
    printed: bool = True
    folded: bool = False

    @property
    def heading(self) -> str:
        """The title with its arrow."""
        return f"{self.title} {self.arrow}".rstrip()


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        label: what it is.
        cells: one a column.
        reference: whether it is no model but a floor, a ceiling or the ground truth.
        meaning: one sentence on a reference.
        heading: whether it is only the heading of the section below it.
    """

    label: str
    cells: tuple[Cell, ...]
    reference: bool = False
    meaning: str = ""
    heading: bool = False


@dataclass(frozen=True)
class Table:
    """A table.

    Attributes:
        title: what it shows.
        corner: heading of the labels.
        columns: from left to right.
        rows: from top to bottom.
        notes: sentences under it.
    """

    title: str
    corner: str
    columns: tuple[Column, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.columns and self.rows)

    def where(self, wanted: Callable[[Column], bool]) -> Table:
        """The table with some of its columns."""
        kept = [position for position, column in enumerate(self.columns) if wanted(column)]
        rows = (replace(row, cells=tuple(row.cells[k] for k in kept)) for row in self.rows)
        return replace(self, columns=tuple(self.columns[k] for k in kept), rows=tuple(rows))

    @property
    def printed(self) -> Table:
        """The table for people."""
        return self.where(lambda column: column.printed)

    @property
    def unfolded(self) -> Table:
        """The table without the columns that stand under the labels."""
        return self.where(lambda column: not column.folded)

    def folded(self, row: Row) -> str:
        """What stands under a row's label: ``diffusion, 3 seeds``."""
        pairs = zip(self.columns, row.cells, strict=True)
        return ", ".join(cell.text for column, cell in pairs if column.folded and cell.text)

    def values(self, row: Row) -> dict[str, float | str | None]:
        """Column name -> value of a row, for programs."""
        return {c.name: cell.value for c, cell in zip(self.columns, row.cells, strict=True)}
