"""Lists the captioned images that a folder names, without opening an image."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from t2ibench.core.errors import DataError
from t2ibench.data.records import clean_caption

IMAGE_SUFFIXES = frozenset(
    {".png", ".jpg", ".jpeg", ".webp", ".avif", ".gif", ".bmp", ".tif", ".tiff", ".ppm"}
)
_SPLIT_FOLDERS = {
    "train": "train",
    "val": "val",
    "valid": "val",
    "validation": "val",
    "test": "test",
}
_METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


@dataclass(frozen=True)
class CaptionedFile:
    """An image file and what is said of it.

    Attributes:
        key: the path relative to the data set's root, with ``/``.
        path: of the image; it may not exist.
        captions: cleaned, none empty; may be an empty tuple.
        group: what a split by hash keeps together.
        split: ``train``, ``val`` or ``test`` by folder, else empty.
        meta: the other metadata columns that JSON can hold: plain values, lists of numbers.
    """

    key: str
    path: Path
    captions: tuple[str, ...]
    group: str
    split: str
    meta: dict[str, Any] = field(default_factory=dict)


def list_captioned_files(
    root: Path, caption_columns: Sequence[str], group_column: str | None = None
) -> list[CaptionedFile]:
    """Every image that metadata or a ``.txt`` names, ordered by key.

    Args:
        root: the data set; ``train``, ``val``, ``test`` folders in it are its splits.
        caption_columns: metadata columns with captions; those that exist are joined.
        group_column: metadata column of groups, or None.

    Raises:
        DataError: unreadable metadata, a path that leaves the root, or no caption column.
    """
    folders = {
        folder: _SPLIT_FOLDERS[folder.name]
        for folder in sorted(root.iterdir())
        if folder.is_dir() and folder.name in _SPLIT_FOLDERS
    }
    found: list[CaptionedFile] = []
    for folder, split in (folders or {root: ""}).items():
        metadata = [folder / name for name in _METADATA if (folder / name).is_file()]
        if len(metadata) > 1:
            names = ", ".join(path.name for path in metadata)
            raise DataError(f"{folder} has {names}; keep one.")
        if metadata:
            rows = _read_rows(metadata[0])
            found += _from_rows(
                root, folder, split, rows, metadata[0], caption_columns, group_column
            )
        else:
            found += _from_sidecars(root, folder, split)
    if folders and not found:
        return list_root_metadata(root, folders, caption_columns, group_column)
    return sorted(found, key=lambda file: file.key)


def list_root_metadata(
    root: Path,
    folders: Mapping[Path, str],
    caption_columns: Sequence[str],
    group_column: str | None,
) -> list[CaptionedFile]:
    """Metadata at the root that names files inside the split folders."""
    metadata = [root / name for name in _METADATA if (root / name).is_file()]
    if not metadata:
        return []
    rows = _read_rows(metadata[0])
    files = _from_rows(root, root, "", rows, metadata[0], caption_columns, group_column)
    by_name = {folder.name: split for folder, split in folders.items()}
    return [
        CaptionedFile(
            file.key,
            file.path,
            file.captions,
            file.group,
            by_name.get(file.key.split("/")[0], ""),
            file.meta,
        )
        for file in sorted(files, key=lambda file: file.key)
    ]


def _read_rows(path: Path) -> list[dict[str, Any]]:
    try:
        if path.suffix == ".parquet":
            import pyarrow.parquet

            return pyarrow.parquet.read_table(path).to_pylist()
        # Undecodable bytes become U+FFFD, which clean_caption removes.
        text = path.read_text(encoding="utf-8-sig", errors="replace")
        if path.suffix == ".csv":
            return list(csv.DictReader(text.splitlines(keepends=True)))
        rows = [json.loads(line) for line in text.split("\n") if line.strip()]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path} cannot be read: {error}.") from error
    if not all(isinstance(row, dict) for row in rows):
        raise DataError(f"{path}: every line must be a JSON object with file_name.")
    return rows


def _from_rows(
    root: Path,
    folder: Path,
    split: str,
    rows: Iterable[dict[str, Any]],
    metadata: Path,
    caption_columns: Sequence[str],
    group_column: str | None,
) -> list[CaptionedFile]:
    merged: dict[str, CaptionedFile] = {}
    resolved_root = root.resolve()
    for number, row in enumerate(rows, start=1):
        name = row.get("file_name")
        if not isinstance(name, str) or not name:
            raise DataError(f"{metadata}: row {number} has no file_name.")
        columns = [column for column in caption_columns if column in row]
        if not columns:
            raise DataError(
                f"{metadata}: row {number} has none of the caption columns "
                f"{', '.join(caption_columns)}; set data.source.caption_columns."
            )
        if group_column is not None and row.get(group_column) is None:
            raise DataError(f"{metadata}: row {number} has no {group_column}.")
        path = folder / name
        if not path.resolve().is_relative_to(resolved_root):
            raise DataError(f"{metadata}: row {number} names {name!r}, outside of {root}.")
        key = path.relative_to(root).as_posix()
        captions = tuple(c for column in columns for c in _captions_in(row[column]))
        if key in merged:  # one row a caption
            captions = merged[key].captions + captions
        group = key if group_column is None else str(row[group_column])
        kept = {"file_name", *columns}
        meta = {k: v for k, v in row.items() if k not in kept and _is_plain(v)}
        merged[key] = CaptionedFile(key, path, captions, group, split, meta)
    return list(merged.values())


def _from_sidecars(root: Path, folder: Path, split: str) -> list[CaptionedFile]:
    files = []
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() not in IMAGE_SUFFIXES or not path.is_file():
            continue
        sidecar = path.with_suffix(".txt")
        lines: list[str] = []
        if sidecar.is_file():
            text = sidecar.read_text(encoding="utf-8-sig", errors="replace")
            lines = text.splitlines()
        key = path.relative_to(root).as_posix()
        files.append(CaptionedFile(key, path, tuple(_captions_in(lines)), key, split))
    # A folder without any sidecar is no captioned data set.
    return files if any(file.captions for file in files) else []


def _captions_in(value: Any) -> list[str]:
    """The non-empty captions of a cell: a string, a list of strings, or nothing."""
    if value is None:
        return []
    cells = value if isinstance(value, (list, tuple)) else [value]
    cleaned = [clean_caption(str(cell)) for cell in cells if cell is not None]
    return [caption for caption in cleaned if caption]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, (int, float)) for item in value)
    return value is None or isinstance(value, (str, int, float, bool))
