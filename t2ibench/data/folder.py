"""Images and captions in a folder, in the layouts that people already have.

* ``metadata.jsonl``, ``metadata.csv`` or ``metadata.parquet`` beside the images, with a
  ``file_name`` column (relative, sub-folders allowed) and one or more caption columns, each a
  string or a list of strings (the Hugging Face image folder); or
* one ``.txt`` beside each image, a caption a line.

Text is UTF-8, or what its byte order mark says, or ``encoding``; another text is refused and never
read with replacements.

Folders in the root whose names mean a split (``train``, ``Test``, ``dev``, ``val2017``, …) are the
splits, or the metadata column ``split`` names them; a folder without them is split by the hash of
each image's key. A data set with only some of them gets the missing ones from train, also by hash.
What is left out is told by ``left_out``: other folders, columns, images without a caption, images
that cannot be used.
"""

from __future__ import annotations

import logging
import math
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from t2ibench.core.errors import ConfigError, DataError
from t2ibench.core.files import atomic_path, exclusive, read_json, write_json
from t2ibench.core.hashing import derive_seed, hash_json
from t2ibench.data.captioned_files import CaptionedFile, Listing, Reading, list_captioned_files
from t2ibench.data.decode import Decoder, DecodeReport
from t2ibench.data.file_hashes import file_hashes
from t2ibench.data.folder_files import has_text_name
from t2ibench.data.records import PreparedSplit, Record, read_records, unknown_split, write_records
from t2ibench.data.resize import Box, Filter, ResizeRecipe
from t2ibench.data.text_files import check_encoding

log = logging.getLogger(__name__)

_VERSION = 3


@dataclass
class FolderReport:
    """Counts of what preparing a folder met.

    Attributes:
        decoding: of the images.
        without_caption: keys of images that have no caption; they are left out.
        missing: files that the metadata name and that do not exist; left out.
    """

    decoding: DecodeReport = field(default_factory=DecodeReport)
    without_caption: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)


class FolderSource:
    """A folder of captioned images (a ``DataSource``), prepared once into uint8 arrays.

    Args:
        root: the folder.
        cache_dir: where the prepared arrays are kept, by the folder's content.
        resolution: side of the square images.
        name: short name in run folders and score keys; the folder's own name by default.
        caption_columns: metadata columns that hold captions; the first that exist are used.
        group_column: metadata column whose equal values must not be torn apart by a split
            by hash (a class, a photographer); None: every image is its own group.
        split_column: metadata column that names each image's split, where it exists; None: it is
            not read.
        encoding: of captions' files without a byte order mark.
        background: RGB under transparent images.
        filter: of the resize recipe.
        crop: of the resize recipe; those around a box read the metadata column ``bbox``: left,
            top, width and height in pixels, a list or four numbers in a string.
        val_share: share of the images for val when there is no such folder.
        test_share: share for test when there is no such folder.
        max_refused: the share of unusable images above which preparing stops.

    Raises:
        ConfigError: impossible shares or resolution.
        DataError: the folder does not exist, or its name is no text.
    """

    splits: tuple[str, ...] = ("train", "val", "test")
    world: Any = None

    def __init__(
        self,
        root: str | Path,
        *,
        cache_dir: str | Path,
        resolution: int = 64,
        name: str | None = None,
        caption_columns: Sequence[str] = ("text", "caption", "captions"),
        group_column: str | None = None,
        split_column: str | None = "split",
        encoding: str = "utf-8",
        background: Sequence[int] = (255, 255, 255),
        filter: Filter = "bicubic",
        crop: str = "centre",
        val_share: float = 0.05,
        test_share: float = 0.1,
        max_refused: float = 0.01,
    ) -> None:
        self.root = Path(root).expanduser()
        if not self.root.is_dir():
            raise DataError(f"there is no folder {self.root}; set data.source.root.")
        if not has_text_name(self.root):
            raise DataError(
                f"data.source.root={ascii(str(self.root))} is not UTF-8, and no run could note "
                "it; rename the folder."
            )
        if min(val_share, test_share) < 0 or val_share + test_share >= 1:
            raise ConfigError(
                f"data.source.val_share={val_share} and data.source.test_share={test_share} must "
                "be at least 0 and leave something to train on."
            )
        if len(background) != 3 or not all(0 <= value <= 255 for value in background):
            raise ConfigError(
                f"data.source.background={list(background)} must be three values of 0 to 255."
            )
        if not 0 <= max_refused <= 1:
            raise ConfigError(f"data.source.max_refused={max_refused} must be a share, 0 to 1.")
        self.name = name or self.root.resolve().name
        self.resolution = resolution
        self.recipe = ResizeRecipe(resolution, filter, crop)
        self.reading = Reading(
            tuple(caption_columns), group_column, split_column, check_encoding(encoding)
        )
        red, green, blue = (int(value) for value in background)
        self.decoder = Decoder(background=(red, green, blue), policy="skip")
        self.val_share = val_share
        self.test_share = test_share
        self.max_refused = max_refused
        self.cache_dir = Path(cache_dir).expanduser()
        self.report = FolderReport()
        self._prepared: dict[str, PreparedSplit] = {}

    @cached_property
    def listing(self) -> Listing:
        """Every image that the folder names, in the order of keys, and what is left out.

        Raises:
            DataError: it names none, or its captions cannot be read.
        """
        found = list_captioned_files(self.root, self.reading)
        if not found.files:
            beside = "; ".join(found.left_out)
            raise DataError(
                f"{self.root} names no captioned image: give metadata.jsonl, .csv or .parquet "
                f"with file_name and one of {', '.join(self.reading.caption_columns)}, or a .txt "
                f"beside each image{f' (left out: {beside})' if beside else ''}."
            )
        return found

    @property
    def files(self) -> list[CaptionedFile]:
        """Every image that the folder names, in the order of keys."""
        return self.listing.files

    def count(self, name: str) -> int:
        """Images of a split at most, known without opening one; see ``DataSource``.

        Raises:
            DataError: there is no such split.
        """
        return len(self._files_of(name))

    def left_out(self) -> list[str]:
        """Sentences on all that is not used and why; refused images once they were decoded."""
        noted, listing = Listing(left_out=list(self.listing.left_out)), self.listing
        told = [f"{folder}/ is {split}" for folder, split in sorted(listing.splits.items())]
        if any(folder != split for folder, split in listing.splits.items()):
            noted.left_out.insert(0, f"splits by folder: {', '.join(told)}")
        _, left = self._assignment
        noted.leave_out("images without a caption", left.without_caption)
        noted.leave_out("images that the metadata names and that do not exist", left.missing)
        refused = self.report.decoding.refused | left.decoding.refused
        noted.leave_out(
            "images that cannot be used", [f"{key}: {why}" for key, why in sorted(refused.items())]
        )
        return noted.left_out

    @cached_property
    def fingerprint(self) -> str:
        """Content hash of all splits: recipe, captions, and the bytes of every image file."""
        return hash_json({name: self.split_fingerprint(name) for name in self.splits})

    def captions_with_every_word(self, name: str) -> Iterator[str]:
        """Captions of the images of a split that can be read, which prepares it.

        Raises:
            DataError: there is no such split.
        """
        return (caption for record in self.split(name).records for caption in record.captions)

    def split_fingerprint(self, name: str) -> str:
        """Content hash of one split, wherever the folder lies; see ``DataSource``.

        Raises:
            DataError: there is no such split.
        """
        listing = [
            [file.key, file.captions, self._hashes[file.key]]
            + ([file.meta.get("bbox")] if self.recipe.needs_box else [])
            for file in self._files_of(name)
        ]
        return hash_json(["folder", _VERSION, self.recipe.name, self.decoder.background, listing])

    def _files_of(self, name: str) -> list[CaptionedFile]:
        """The usable files of a split.

        Raises:
            DataError: there is no such split.
        """
        if name not in self.splits:
            raise unknown_split(self.name, name, self.splits)
        return self._assignment[0].get(name, [])

    @cached_property
    def _hashes(self) -> dict[str, str]:
        """Content hash of each file by its key."""
        paths = {file.key: file.path for file in self.files}
        return file_hashes(self.root, paths, self.cache_dir / "folder" / "hashes")

    def split(self, name: str) -> PreparedSplit:
        """``train``, ``val`` or ``test``, memory-mapped; prepared at first use.

        Raises:
            DataError: unknown name, an empty split, or too many unusable images.
        """
        if name not in self.splits:
            raise unknown_split(self.name, name, self.splits)
        if name not in self._prepared:
            folder = self._prepare()
            records = read_records(folder / f"{name}.jsonl")
            if not records:
                raise DataError(
                    f"{self.name} has no image in its {name} split; give more images, a "
                    f"{name}/ folder, or another share of the rest (data.source.val_share, "
                    "data.source.test_share)."
                )
            images = np.load(folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
            self._prepared[name] = PreparedSplit(f"{self.name}/{name}", images, records)
        return self._prepared[name]

    def everything(self) -> PreparedSplit:
        """All images in the order of keys, whatever their split: for scoring a folder."""
        folder = self._prepare()
        pieces = [
            (read_records(folder / f"{name}.jsonl"), np.load(folder / f"{name}.npy"))
            for name in self.splits
        ]
        records = [record for found, _ in pieces for record in found]
        if not records:
            raise DataError(f"{self.name} has no usable image.")
        order = sorted(range(len(records)), key=lambda i: records[i].key)
        images = np.concatenate([array for _, array in pieces])[order]
        return PreparedSplit(f"{self.name}/all", images, [records[i] for i in order])

    def _prepare(self) -> Path:
        """The folder of prepared arrays of this fingerprint; made when it is not whole."""
        folder = self.cache_dir / "folder" / f"{self.name}-{self.fingerprint}"
        folder.mkdir(parents=True, exist_ok=True)
        with exclusive(folder / ".lock"):
            if not (folder / "dataset.json").exists():
                self._write(folder)
        # Kept is what the decoded images met alone: the folder may since have got files that no
        # split holds, which change no fingerprint.
        noted = read_json(folder / "dataset.json")["report"]
        assigned, left = self._assignment
        keys = {file.key for files in assigned.values() for file in files}
        refused = {key: why for key, why in noted["refused"].items() if key in keys}
        self.report = FolderReport(
            DecodeReport(
                noted["decoded"], Counter(noted["treated"]), refused | left.decoding.refused
            ),
            left.without_caption,
            left.missing,
        )
        self._check_refused(self.report)
        return folder

    def _check_refused(self, report: FolderReport) -> None:
        """Stops where too many images cannot be used, also those of an earlier preparation.

        Raises:
            DataError: their share is above ``max_refused``.
        """
        unusable = DecodeReport(report.decoding.decoded, refused=dict(report.decoding.refused))
        unusable.refused |= {key: "the file does not exist" for key in report.missing}
        unusable.check_share(str(self.root), self.max_refused)

    def _write(self, folder: Path) -> None:
        report = DecodeReport()
        for name in self.splits:
            self._write_split(folder, name, self._files_of(name), report)
        facts = {"name": self.name, "recipe": self.recipe.name, "report": report.to_dict()}
        write_json(folder / "dataset.json", facts)

    @cached_property
    def _assignment(self) -> tuple[dict[str, list[CaptionedFile]], FolderReport]:
        """Usable files by split, of their folder or by hash of the group, and what is left out."""
        usable, report = [], FolderReport()
        for file in self.files:
            if file.refused:
                report.decoding.refused[file.key] = file.refused
            elif not file.path.is_file():
                report.missing.append(file.key)
            elif not file.captions:
                report.without_caption.append(file.key)
            else:
                usable.append(file)
        given = {file.split for file in usable}
        assigned: dict[str, list[CaptionedFile]] = defaultdict(list)
        for file in usable:
            name = file.split
            if name in ("", "train"):
                draw = derive_seed("folder split", file.group) % 10_000 / 10_000
                name = "train"
                if "test" not in given and draw < self.test_share:
                    name = "test"
                elif "val" not in given and draw >= 1 - self.val_share:
                    name = "val"
            assigned[name].append(file)
        return assigned, report

    def _write_split(
        self, folder: Path, name: str, files: list[CaptionedFile], report: DecodeReport
    ) -> None:
        side = self.resolution
        records: list[Record] = []
        aside = folder / f".{name}.raw"
        with open(aside, "wb") as raw:
            for file in files:
                image = self.decoder(file.path, file.key, report)
                if image is None:
                    continue
                box = box_of(file) if self.recipe.needs_box else None
                try:
                    square = self.recipe(image, box)
                except DataError as error:  # a box outside of its image
                    report.refuse(file.key, str(error))
                    continue
                raw.write(square.tobytes())
                meta = {"file": file.path.relative_to(self.root).as_posix(), **file.meta}
                records.append(Record(file.key, file.captions, file.group, name, meta))
        images = np.fromfile(aside, dtype=np.uint8).reshape(len(records), 3, side, side)
        with atomic_path(folder / f"{name}.npy") as path, open(path, "wb") as out:
            np.save(out, images)
        aside.unlink()
        with atomic_path(folder / f"{name}.jsonl") as path:
            write_records(path, records)
        log.info("%s/%s: %d images", self.name, name, len(records))


def box_of(file: CaptionedFile) -> Box:
    """The object's box that an image's metadata give.

    Raises:
        DataError: no ``bbox``, or not four numbers.
    """
    given = file.meta.get("bbox")
    cells = given.replace(",", " ").strip("[] ").split() if isinstance(given, str) else given
    try:
        left, top, width, height = (float(cell) for cell in cells or ())
        if not all(map(math.isfinite, (left, top, width, height))):
            raise ValueError
    except (TypeError, ValueError):
        raise DataError(
            f"{file.key} has bbox={given!r}; a crop around the object's box needs the metadata "
            "column bbox: left, top, width, height in pixels. Give it, or set "
            "data.source.crop=centre."
        ) from None
    return left, top, width, height
