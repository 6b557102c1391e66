"""Prompt files of other people's benchmarks, read into one prompt type.

| file | format |
|---|---|
| PartiPrompts (``PartiPrompts.tsv``) | TSV: Prompt, Category, Challenge, Note |
| DrawBench (``DrawBench.csv``) | CSV: Prompts (or Prompt), Category |
| GenEval (``evaluation_metadata.jsonl``) | a JSON object a line: tag, include, exclude, prompt |
| T2I-CompBench (``color_val.txt`` and its like), your own | a prompt a line |
"""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2ibench.core.errors import DataError
from t2ibench.data.records import clean_caption


@dataclass(frozen=True)
class Prompt:
    """One prompt with its benchmark's metadata.

    Attributes:
        text: the prompt, clean.
        category: the benchmark's class of it, or empty.
        meta: the row as its benchmark wrote it, JSON-ready; a detector reads it back.
    """

    text: str
    category: str = ""
    meta: dict[str, Any] = field(default_factory=dict)


def read_prompts(path: str | Path) -> list[Prompt]:
    """Every prompt of a file, in its order, repeats kept.

    Raises:
        DataError: no such file, an unknown suffix, a missing column or an unreadable line.
    """
    path = Path(path)
    if not path.is_file():
        raise DataError(
            f"prompts={path} does not exist; give a .txt (a prompt a line), .tsv, .csv or .jsonl."
        )
    readers: dict[str, Callable[[str, Path], Iterable[Prompt]]] = {
        ".txt": _lines,
        ".tsv": lambda text, path: _table(text, path, "\t"),
        ".csv": lambda text, path: _table(text, path, ","),
        ".jsonl": _objects,
    }
    if path.suffix.lower() not in readers:
        raise DataError(f"prompts={path} is not one of {', '.join(readers)}.")
    try:
        text = path.read_text(encoding="utf-8-sig")
        found = [prompt for prompt in readers[path.suffix.lower()](text, path) if prompt.text]
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"prompts={path} cannot be read ({error}); save it as UTF-8.") from error
    if not found:
        raise DataError(f"prompts={path} holds no prompt.")
    return found


def is_geneval(prompts: Iterable[Prompt]) -> bool:
    """True where all prompts carry GenEval's metadata: a tag and what an image must include.

    Example:
        >>> row = {"tag": "colors", "include": [{"class": "cup"}], "prompt": "a photo of a red cup"}
        >>> is_geneval([Prompt("a photo of a red cup", "colors", row)])
        True
        >>> is_geneval([Prompt("a photo of a red cup")])
        False
    """
    return all({"tag", "include", "prompt"} <= set(prompt.meta) for prompt in prompts)


def _lines(text: str, path: Path) -> Iterable[Prompt]:
    # The file's name is the category: color_val of T2I-CompBench's color_val.txt.
    return (Prompt(clean_caption(line), path.stem) for line in text.split("\n"))


def _table(text: str, path: Path, delimiter: str) -> Iterable[Prompt]:
    # TSV as PartiPrompts writes it has no quoting: a quotation mark is part of a prompt.
    lines = text.splitlines(keepends=True)
    if delimiter == "\t":
        rows = csv.DictReader(lines, delimiter=delimiter, quoting=csv.QUOTE_NONE)
    else:
        rows = csv.DictReader(lines, delimiter=delimiter)
    for number, row in enumerate(rows, 2):
        written = row.get("Prompt") or row.get("Prompts")
        if written is None:
            raise DataError(
                f"{path}: row {number} has no Prompt or Prompts; the columns are "
                f"{', '.join(str(name) for name in row)}."
            )
        meta = {str(key): value for key, value in row.items() if key is not None}
        yield Prompt(clean_caption(written), row.get("Category") or "", meta)


def _objects(text: str, path: Path) -> Iterable[Prompt]:
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}: line {number} is not JSON ({error}).") from error
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise DataError(f"{path}: line {number} has no prompt; GenEval's lines have one each.")
        yield Prompt(clean_caption(row["prompt"]), str(row.get("tag", "")), row)
