"""Prompt files of other people's benchmarks, read into one prompt type.

| file | format |
|---|---|
| PartiPrompts (``PartiPrompts.tsv``) | TSV: Prompt, Category, Challenge, Note |
| DrawBench (``DrawBench.csv``) | CSV: Prompts (or Prompt), Category |
| OneIG-Bench (``OneIG-Bench.csv``, ``OneIG-Bench-ZH.csv``) | CSV: category, id, prompt_en or |
| | prompt_cn, … |
| DPG-Bench (``dpg_bench.csv``) | CSV: item_id, text, …; a row a question, a prompt an item |
| DPG-Bench (``prompts/``) | a folder: ``ITEM_ID.txt`` holds one prompt |
| GenEval (``evaluation_metadata.jsonl``) | a JSON object a line: tag, include, exclude, prompt |
| GenEval 2 (``geneval2_data.jsonl``) | a JSON object a line: prompt, atom_count, vqa_list, skills |
| T2I-CompBench (``color_val.txt`` and its like), your own | a prompt a line |

Source: the files that the benchmarks' repositories publish.
Differs: ``dpg_bench.csv`` itself was not at hand; its columns are those that its evaluator names.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2ibench.core.errors import DataError
from t2ibench.data.folder_files import visible_files
from t2ibench.data.records import clean_caption
from t2ibench.data.text_files import json_lines, read_text_file, split_lines

PROMPT_COLUMNS = ("Prompt", "Prompts", "prompt_en", "prompt_cn")
"""Columns of tables that hold prompts."""

ONEIG_CLASSES = {
    "Anime_Stylization": "anime",
    "Portrait": "human",
    "General_Object": "object",
    "Text_Rendering": "text",
    "Knowledge_Reasoning": "reasoning",
    "Multilingualism": "multilingualism",
}
"""Categories of OneIG-Bench, each with the folder that its evaluator reads."""


@dataclass(frozen=True)
class Benchmark:
    """A benchmark whose evaluator reads more of a prompt than its text.

    Attributes:
        file: name of the file of prompts.
        columns: what each prompt's metadata have.
        languages: of these, each prompt's metadata have one; empty: none is needed.
    """

    file: str
    columns: frozenset[str]
    languages: frozenset[str] = frozenset()

    def holds(self, meta: Mapping[str, Any]) -> bool:
        """True where a prompt's metadata are this benchmark's."""
        names = set(meta)
        return self.columns <= names and (not self.languages or bool(self.languages & names))


BENCHMARKS = {
    "geneval": Benchmark(
        "GenEval's evaluation_metadata.jsonl", frozenset({"tag", "include", "prompt"})
    ),
    "geneval2": Benchmark("GenEval 2's geneval2_data.jsonl", frozenset({"vqa_list", "prompt"})),
    "dpg_bench": Benchmark("DPG-Bench's folder of prompts", frozenset({"item_id"})),
    "oneig": Benchmark(
        "OneIG-Bench.csv", frozenset({"category", "id"}), frozenset({"prompt_en", "prompt_cn"})
    ),
}


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
    """Every prompt of a file or of a folder of ``.txt``, in its order, repeats kept.

    Raises:
        DataError: no such file, an unknown suffix, a missing column or an unreadable line.
    """
    path = Path(path).expanduser()
    if path.is_dir():
        found = _folder(path)
    elif not path.is_file():
        raise DataError(
            f"prompts={path} does not exist; give a .txt (a prompt a line), .tsv, .csv or .jsonl, "
            "or a folder of .txt with one prompt each."
        )
    elif path.suffix.lower() not in READERS:
        raise DataError(f"prompts={path} is not one of {', '.join(READERS)}.")
    else:
        text = read_text_file(path, remedy="save it as UTF-8")
        found = list(READERS[path.suffix.lower()](text, path))
    found = [prompt for prompt in found if prompt.text]
    if not found:
        raise DataError(f"prompts={path} holds no prompt.")
    return found


def benchmark_of(prompts: Sequence[Prompt]) -> str | None:
    """Name of the benchmark whose metadata all prompts carry, or None.

    Example:
        >>> row = {"tag": "colors", "include": [{"class": "cup"}], "prompt": "a photo of a red cup"}
        >>> benchmark_of([Prompt("a photo of a red cup", "colors", row)])
        'geneval'
        >>> benchmark_of([Prompt("a photo of a red cup")])
    """
    for name, benchmark in BENCHMARKS.items():
        if prompts and all(benchmark.holds(prompt.meta) for prompt in prompts):
            return name
    return None


def _folder(folder: Path) -> list[Prompt]:
    """A prompt a file, as DPG-Bench has them, in the order of the names' numbers."""
    files = [path for path in visible_files(folder) if path.suffix.lower() == ".txt"]
    files.sort(key=lambda path: (not path.stem.isdigit(), path.stem.zfill(20)))
    return [
        Prompt(
            clean_caption(read_text_file(path, remedy="save it as UTF-8")),
            "",
            {"item_id": path.stem},
        )
        for path in files
    ]


def _lines(text: str, path: Path) -> Iterable[Prompt]:
    # The file's name is the category: color_val of T2I-CompBench's color_val.txt.
    return (Prompt(clean_caption(line), path.stem) for line in split_lines(text))


def _tabs(text: str, path: Path) -> Iterable[Prompt]:
    # TSV as PartiPrompts writes it has no quoting: a quotation mark is part of a prompt.
    lines = io.StringIO(text, newline="")
    return _rows(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE), path)


def _commas(text: str, path: Path) -> Iterable[Prompt]:
    return _rows(csv.DictReader(io.StringIO(text, newline=""), strict=True), path)


def _rows(rows: csv.DictReader[str], path: Path) -> Iterable[Prompt]:
    items: set[str] = set()
    try:
        for row in rows:
            if "item_id" in row and "text" in row:  # a question a row
                item = file_stem(str(row["item_id"]), f"{path}: line {rows.line_num}")
                if item not in items:
                    items.add(item)
                    yield Prompt(clean_caption(str(row["text"] or "")), "", {"item_id": item})
                continue
            where = f"{path}: line {rows.line_num}"
            if BENCHMARKS["oneig"].holds(row):
                file_stem(str(row["id"]), where)
                if row["category"] not in ONEIG_CLASSES:
                    raise DataError(
                        f"{where} has category={row['category']}; OneIG-Bench has "
                        f"{', '.join(ONEIG_CLASSES)}."
                    )
            yield _prompt_of(row, where)
    except csv.Error as error:
        raise DataError(f"{path}: line {rows.reader.line_num} cannot be read ({error}).") from error


def file_stem(name: str, where: str) -> str:
    """A benchmark's name of a prompt, after which its image's file is named.

    Raises:
        DataError: it is no name of a file, or would lead into another folder.
    """
    if not name or name.startswith(".") or "/" in name or "\0" in name:
        raise DataError(f"{where} has the id {name!r}, which cannot name an image's file.")
    return name


def _prompt_of(row: dict[str, Any], where: str) -> Prompt:
    if None in row:
        raise DataError(
            f"{where} has more cells than the header; put a prompt with a comma into quotation "
            "marks."
        )
    written = next((row[name] for name in PROMPT_COLUMNS if row.get(name) is not None), None)
    if written is None:
        raise DataError(
            f"{where} has no {' or '.join(PROMPT_COLUMNS)}; the columns are {', '.join(row)}."
        )
    return Prompt(clean_caption(written), row.get("Category") or row.get("category") or "", row)


def _objects(text: str, path: Path) -> Iterable[Prompt]:
    for number, row in json_lines(text, path):
        if not isinstance(row, dict) or not isinstance(row.get("prompt"), str):
            raise DataError(f"{path}: line {number} has no prompt; GenEval's lines have one each.")
        atoms = f"atomicity {row['atom_count']}" if "atom_count" in row else ""
        yield Prompt(clean_caption(row["prompt"]), str(row.get("tag", atoms)), row)


READERS: dict[str, Callable[[str, Path], Iterable[Prompt]]] = {
    ".txt": _lines,
    ".tsv": _tabs,
    ".csv": _commas,
    ".jsonl": _objects,
}
"""Readers of the suffixes."""
