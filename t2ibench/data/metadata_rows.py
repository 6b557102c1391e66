"""Rows of a metadata file, ``metadata.jsonl``, ``.csv`` or ``.parquet``, each with its place."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from t2ibench.core.errors import DataError
from t2ibench.data.text_files import json_lines, read_text_file

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")

Row = dict[str, Any]


def read_rows(path: Path, encoding: str) -> list[tuple[str, Row]]:
    """Every row with its place in the file (``line 7``), for messages.

    Args:
        path: one of ``METADATA``.
        encoding: of text without a byte order mark.

    Raises:
        DataError: the file or one of its rows cannot be read.
    """
    if path.suffix == ".parquet":
        return list(_parquet_rows(path))
    text = read_text_file(path, encoding)
    return list(_csv_rows(path, text) if path.suffix == ".csv" else _json_rows(path, text))


def _json_rows(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    for number, row in json_lines(text, path):
        if not isinstance(row, dict):
            raise DataError(f"{path}: line {number} is no JSON object with file_name.")
        yield f"line {number}", row


def _csv_rows(path: Path, text: str) -> Iterator[tuple[str, Row]]:
    # The reader finds the ends of lines itself: quoted cells may hold breaks of every kind.
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        header = next(reader, [])
        if len(set(header)) != len(header):
            raise DataError(f"{path}: its header names a column twice ({', '.join(header)}).")
        for number, row in _numbered(reader):
            if len(row) > len(header):
                raise DataError(
                    f"{path}: line {number} has {len(row)} cells and the header {len(header)}; "
                    'put a caption with a comma into quotation marks: "a ring, red".'
                )
            if row:
                yield f"line {number}", dict(zip(header, row, strict=False))
    except csv.Error as error:
        raise DataError(
            f"{path}: line {reader.line_num} cannot be read: {error}; a quotation mark within a "
            'quoted cell is written twice: "a 5"" ring".'
        ) from error


def _numbered(reader: Any) -> Iterator[tuple[int, list[str]]]:
    """Rows of a csv reader with the line on which each begins."""
    begins = reader.line_num + 1
    for row in reader:
        yield begins, row
        begins = reader.line_num + 1


def _parquet_rows(path: Path) -> Iterator[tuple[str, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        rows = pyarrow.parquet.read_table(path).to_pylist()
    except (OSError, ValueError, pyarrow.ArrowException) as error:
        raise DataError(f"{path} cannot be read: {str(error).splitlines()[0]}.") from error
    for number, row in enumerate(rows, start=1):
        yield f"row {number}", row
