"""Lists the captioned images that a folder names, without opening an image."""

from __future__ import annotations

import math
import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from t2ibench.core.errors import DataError
from t2ibench.data.caption_cells import captions_in_cell, is_absent
from t2ibench.data.folder_files import NOT_TEXT, has_text_name, is_image, key_of, visible_files
from t2ibench.data.metadata_rows import METADATA, Row, read_rows
from t2ibench.data.records import LOST, clean_caption
from t2ibench.data.splits import split_of_cell, split_of_name
from t2ibench.data.text_files import read_text_file, split_lines


@dataclass(frozen=True)
class Reading:
    """Columns and encoding of a folder's captions.

    Attributes:
        caption_columns: metadata columns with captions; those that exist are joined.
        group_column: metadata column of groups, or None.
        split_column: metadata column that names each image's split, where it exists; None: never.
        encoding: of text files without a byte order mark.
    """

    caption_columns: tuple[str, ...] = ("text", "caption", "captions")
    group_column: str | None = None
    split_column: str | None = "split"
    encoding: str = "utf-8"


@dataclass(frozen=True)
class CaptionedFile:
    """An image file and what is said of it.

    Attributes:
        key: the path relative to the data set's root, with ``/``.
        path: of the image; it may not exist.
        captions: cleaned, none empty; may be an empty tuple.
        group: what a split by hash keeps together.
        split: ``train``, ``val`` or ``test`` where folder or metadata name one, else empty.
        meta: the other metadata columns that JSON can hold: plain values, lists of numbers.
        refused: why the image cannot be used whatever it holds; empty where it can.
    """

    key: str
    path: Path
    captions: tuple[str, ...]
    group: str
    split: str
    meta: dict[str, Any] = field(default_factory=dict)
    refused: str = ""


@dataclass
class Listing:
    """Images that a folder names, and what of it is left out.

    Attributes:
        files: images in the order of keys.
        splits: folder -> the split that its name means.
        left_out: what is not read and why, a sentence each.
    """

    files: list[CaptionedFile] = field(default_factory=list)
    splits: dict[str, str] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    def leave_out(self, what: str, names: Sequence[str]) -> None:
        """Notes names that are left out, the first three of them told."""
        if names:
            more = ", …" if len(names) > 3 else ""
            self.left_out.append(f"{len(names)} {what} ({', '.join(names[:3])}{more})")


def list_captioned_files(root: Path, reading: Reading) -> Listing:
    """Every image that metadata or a ``.txt`` names, ordered by key, with what is left out.

    Folders directly in the root whose names mean a split are the splits, and nothing else is read
    then; else the whole root is read.

    Args:
        root: the data set.
        reading: columns and encoding.

    Raises:
        DataError: unreadable metadata, a path that leaves the root, or no caption column.
    """
    listing = Listing()
    by_folder: dict[str, list[Path]] = defaultdict(list)
    for path in visible_files(root):
        within = path.relative_to(root).parts
        by_folder[within[0] if len(within) > 1 else ""].append(path)
    listing.splits = {name: s for name in by_folder if name and (s := split_of_name(name))}
    if listing.splits:
        _read_splits(listing, root, by_folder, reading)
    else:
        _read_whole(listing, root, by_folder, reading)
    if not any(file.captions or file.refused for file in listing.files):
        listing.files.clear()
    listing.files.sort(key=lambda file: file.key)
    lost = [file.key for file in listing.files if any(LOST in c for c in file.captions)]
    listing.leave_out(f"images whose captions have lost characters ({LOST}) in their file", lost)
    return listing


def _read_splits(
    listing: Listing, root: Path, by_folder: Mapping[str, list[Path]], reading: Reading
) -> None:
    """Reads the folders of splits, or metadata in the root that name files inside of them."""
    for name, split in listing.splits.items():
        _read_section(listing, root, root / name, split, by_folder[name], reading)
    found = any(file.captions or file.refused for file in listing.files)
    if not found and any((root / name).is_file() for name in METADATA):
        listing.files, listing.left_out = [], []
        paths = [path for paths in by_folder.values() for path in paths]
        _read_section(listing, root, root, "", paths, reading)
        return
    for name in sorted(set(by_folder) - set(listing.splits)):
        paths = by_folder[name]
        images = sum(map(is_image, paths))
        what = f"folder {name}/" if name else "files beside the splits"
        if name or images or any(path.name in METADATA for path in paths):
            listing.left_out.append(f"{what}: {len(paths)} files, {images} of them images")


def _read_whole(
    listing: Listing, root: Path, by_folder: Mapping[str, list[Path]], reading: Reading
) -> None:
    """Reads a root without splits; folders deeper down that are named like some are told."""
    paths = [path for paths in by_folder.values() for path in paths]
    _read_section(listing, root, root, "", paths, reading)
    deeper = {
        path.relative_to(root).parent.as_posix()
        for path in paths
        if is_image(path) and split_of_name(path.parent.name)
    }
    what = f"folders not taken as splits, as they are not directly in {root.name or root}"
    listing.leave_out(what, sorted(deeper))


def _read_section(
    listing: Listing, root: Path, folder: Path, split: str, paths: list[Path], reading: Reading
) -> None:
    """Reads one folder, by its metadata or its ``.txt`` files."""
    metadata = [folder / name for name in METADATA if (folder / name).is_file()]
    if len(metadata) > 1:
        names = ", ".join(path.name for path in metadata)
        raise DataError(f"{folder} has {names}; keep one.")
    if metadata:
        files, used = _from_rows(listing, root, folder, split, metadata[0], reading), {metadata[0]}
        named = {file.path for file in files}
        unlisted = [path for path in paths if is_image(path) and path not in named]
        where = metadata[0].relative_to(root)
        listing.leave_out(f"images that {where} does not name", _keys(root, unlisted))
    else:
        files, used = _from_sidecars(root, split, paths, reading)
        texts = {p for p in paths if p.suffix.lower() == ".txt"} - used
        what = "captions (.txt) without an image of their name"
        listing.leave_out(what, _keys(root, sorted(texts)))
        used |= texts
    listing.files += files
    rest = [p for p in paths if p not in used and not is_image(p)]
    kinds = Counter(p.suffix.lower() or p.name for p in rest)
    if kinds:
        told = ", ".join(f"{count} {kind}" for kind, count in sorted(kinds.items()))
        listing.left_out.append(f"files of {folder.name or folder} that are not read: {told}")


# ---- metadata ----


def _from_rows(
    listing: Listing, root: Path, folder: Path, split: str, metadata: Path, reading: Reading
) -> list[CaptionedFile]:
    rows = read_rows(metadata, reading.encoding)
    columns = list(dict.fromkeys(column for _, row in rows for column in row))
    captions = [column for column in reading.caption_columns if column in columns]
    if rows and not captions:
        raise DataError(
            f"{metadata} has none of the caption columns {', '.join(reading.caption_columns)}; its "
            f"columns are {', '.join(map(str, columns))}. Set data.source.caption_columns."
        )
    own = {"file_name", "bbox", reading.group_column, reading.split_column, *captions}
    listing.leave_out(
        f"columns of {metadata.relative_to(root)} that are not captions",
        [str(column) for column in columns if column not in own],
    )
    merged: dict[str, CaptionedFile] = {}
    for place, row in rows:
        where = f"{metadata}: {place}"
        key, path = _located(root, folder, row, where)
        lies_in = split or listing.splits.get(key.split("/")[0], "")
        file = _from_row(key, path, lies_in, where, row, captions, reading)
        if (first := merged.get(file.key)) is not None:  # one row a caption
            if first.split != file.split or first.group != file.group:
                raise DataError(
                    f"{metadata}: {place} gives {file.key} another split or group than a row "
                    "before; correct one."
                )
            file = replace(file, captions=first.captions + file.captions)
        merged[file.key] = file
    return list(merged.values())


def _from_row(
    key: str,
    path: Path,
    split: str,
    where: str,
    row: Row,
    columns: Sequence[str],
    reading: Reading,
) -> CaptionedFile:
    """One row's image; ``split`` is that of its folder, with which the row's own must agree."""
    found: list[str] = []
    for column in columns:
        try:
            found += captions_in_cell(row.get(column))
        except DataError as error:
            raise DataError(f"{where} has {column}={error}.") from error
    group = key
    if reading.group_column is not None:
        if (value := row.get(reading.group_column)) == "" or is_absent(value):
            raise DataError(f"{where} has no {reading.group_column}.")
        group = str(value)
    if reading.split_column is not None and reading.split_column in row:
        named = split_of_cell(row[reading.split_column], where)
        if split and named != split:
            raise DataError(
                f"{where} has split={named} and lies in the folder of {split}; correct one, or set "
                "data.source.split_column=null."
            )
        split = named
    kept = {"file_name", *columns}
    meta = {str(k): _finite(v) for k, v in row.items() if k not in kept and _is_plain(v)}
    return CaptionedFile(key, path, tuple(found), group, split, meta)


def _located(root: Path, folder: Path, row: Row, where: str) -> tuple[str, Path]:
    """Key and path of the image that a row names.

    What lies behind a link is not asked (the hub keeps all files behind links); a name must not
    climb out of the root by itself. A file system may hold the name composed or decomposed.
    """
    name = row.get("file_name")
    if not isinstance(name, str) or not name:
        raise DataError(f"{where} has no file_name; its columns are {', '.join(map(str, row))}.")
    key = Path(os.path.normpath(folder.relative_to(root) / name)).as_posix()
    if key.startswith("..") or key.startswith("/"):
        raise DataError(f"{where} names {name!r}, outside of {root}.")
    if not has_text_name(Path(key)):
        raise DataError(f"{where} names {name!r}, which is not valid text; rename the file.")
    forms = (key, unicodedata.normalize("NFC", key), unicodedata.normalize("NFD", key))
    return key, next((root / form for form in forms if (root / form).exists()), root / key)


# ---- a text beside each image ----


def _from_sidecars(
    root: Path, split: str, paths: Iterable[Path], reading: Reading
) -> tuple[list[CaptionedFile], set[Path]]:
    """The images with what their ``.txt`` says, and the texts that were read."""
    paths = list(paths)
    texts = {path.with_suffix(""): path for path in paths if path.suffix.lower() == ".txt"}
    files, used = [], set()
    for path in filter(is_image, paths):
        sidecar, captions, refused = texts.get(path.with_suffix("")), [], ""
        if sidecar is not None:
            used.add(sidecar)
            try:
                lines = split_lines(read_text_file(sidecar, reading.encoding))
                captions = [caption for line in lines if (caption := clean_caption(line))]
            except DataError as error:
                refused = str(error)
        key = key_of(path, root)
        if not has_text_name(path.relative_to(root)):
            refused = NOT_TEXT
        files.append(CaptionedFile(key, path, tuple(captions), key, split, refused=refused))
    return files, used


# ---- cells and names ----


def _keys(root: Path, paths: Iterable[Path]) -> list[str]:
    return [key_of(path, root) for path in paths]


def _is_plain(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return all(isinstance(item, (int, float)) for item in value)
    return value is None or isinstance(value, (str, int, float, bool))


def _finite(value: Any) -> Any:
    """The value, with None for numbers that JSON does not have."""
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
