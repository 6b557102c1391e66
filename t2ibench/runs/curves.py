"""Learning curves in a CSV file: one row a logging interval, first column ``images_seen``.

A damaged file loses the rows from the damage on, and its reader says so: the rows before it are
whole lines of numbers whose images only rise.
"""

from __future__ import annotations

import csv
import io
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from t2ibench.core.errors import ContentError
from t2ibench.core.files import atomic_path, read_text

log = logging.getLogger(__name__)

IMAGES = "images_seen"
"""The first column."""


@dataclass(frozen=True)
class Curves:
    """Content of a file of learning curves.

    Attributes:
        columns: names of its columns.
        rows: column -> text of a number, or an empty text where a row has no such value.
        damage: a sentence on what follows these rows and cannot be read; empty for a whole file.
    """

    columns: tuple[str, ...] = ()
    rows: tuple[dict[str, str], ...] = ()
    damage: str = ""

    def numbers(self) -> list[dict[str, float]]:
        """The values of each row, without those that it lacks."""
        return [{name: float(text) for name, text in row.items() if text} for row in self.rows]


def read_curves(path: Path) -> Curves:
    """Reads learning curves as far as they are whole; empty where there is no file."""
    if not path.exists():
        return Curves()
    try:
        text = read_text(path, "its rows are lost")
    except ContentError as error:
        return Curves(damage=str(error))
    header, _, body = text.partition("\n")
    columns = tuple(header.rstrip("\r").split(","))
    if IMAGES not in columns[:1] or len(set(columns)) < len(columns):
        return Curves(damage=f"{path} begins with no columns of curves; its rows are lost.")
    rows: list[dict[str, str]] = []
    for number, line in enumerate(io.StringIO(body, newline="\n"), 2):
        row = row_of(line, columns)
        if row is None or (rows and int(row[IMAGES]) <= int(rows[-1][IMAGES])):
            sentence = f"{path} is damaged in line {number}; its rows from there on are lost."
            return Curves(columns, tuple(rows), sentence)
        rows.append(row)
    return Curves(columns, tuple(rows))


def row_of(line: str, columns: tuple[str, ...]) -> dict[str, str] | None:
    """The values of a whole line, or None for any other."""
    if not line.endswith("\n") or "\x00" in line or '"' in line:
        return None
    values = line.rstrip("\r\n").split(",")
    if len(values) != len(columns) or not (values[0].isascii() and values[0].isdigit()):
        return None
    try:
        [float(value) for value in values if value]
    except ValueError:
        return None
    return dict(zip(columns, values, strict=True))


def warned_curves(path: Path) -> Curves:
    """Learning curves as far as they are whole; a warning says what is lost."""
    found = read_curves(path)
    if found.damage:
        log.warning("%s", found.damage)
    return found


class MetricsFile:
    """Learning curves that training writes, in metrics.csv.

    A resumed run drops the rows after its checkpoint, so that a curve never runs twice over
    the same images.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def rewind(self, images_seen: int) -> None:
        """Keeps the rows up to ``images_seen``, of a damaged file those before the damage."""
        rows = warned_curves(self.path).rows
        self.rows = [dict(row) for row in rows if int(row[IMAGES]) <= images_seen]

    def append(self, row: Mapping[str, Any]) -> None:
        """Adds a row and writes the file; new columns may appear."""
        self.rows.append(dict(row))
        columns = list(dict.fromkeys(name for r in self.rows for name in r))
        with (
            atomic_path(self.path) as aside,
            open(aside, "w", newline="", encoding="utf-8") as file,
        ):
            writer = csv.DictWriter(file, columns, restval="")
            writer.writeheader()
            writer.writerows(self.rows)
