"""Sample sets: generated images with their prompts, the only thing the evaluator reads.

On disk a set is a folder:

    pixels.npy       (N, 3, H, W) uint8
    manifest.jsonl   one line an image: key, caption, seed
    values.csv       one line an image: its scores (once scored)
    set.json         how the images were made, and their hash; written last
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2ibench.core.errors import ContentError, ScoreError
from t2ibench.core.files import atomic_path, read_json_object, read_text, write_json
from t2ibench.core.types import PixelImages

SCHEMA = 1

CHUNK = 256
"""Images hashed and copied at a time."""

AGAIN = "score the run again, which draws it anew"
"""Remedy for a sample set that cannot be read."""

RESCORE = "score the run again, which writes it anew"
"""Remedy for values that cannot be read."""


@dataclass(frozen=True)
class SampleSet:
    """Set of N images as stored and scored, each with its prompt.

    Attributes:
        pixels: (N, 3, H, W) uint8.
        captions: N prompts.
        keys: N prompt keys; images of one prompt (several seeds) share a key.
        seeds: N per-sample seeds.
        meta: JSON-ready facts of how they were made: model, knobs, protocol, split.

    Raises:
        ScoreError: the columns have different lengths, or there are no images.
    """

    pixels: PixelImages
    captions: tuple[str, ...]
    keys: tuple[str, ...]
    seeds: tuple[int, ...]
    meta: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        lengths = {len(self.pixels), len(self.captions), len(self.keys), len(self.seeds)}
        if len(lengths) != 1 or lengths == {0}:
            raise ScoreError(
                f"a sample set needs as many captions, keys and seeds as images (at least 1), got "
                f"{len(self.pixels)} images, {len(self.captions)} captions, {len(self.keys)} keys "
                f"and {len(self.seeds)} seeds."
            )

    def __len__(self) -> int:
        return len(self.captions)

    @property
    def resolution(self) -> int:
        """Height H in pixels."""
        return int(self.pixels.shape[-2])

    @property
    def hash(self) -> str:
        """First 16 hex digits of the SHA-256 of pixels, captions, keys and seeds."""
        digest = hashlib.sha256(str(tuple(self.pixels.shape)).encode())
        for start in range(0, len(self), CHUNK):
            digest.update(self.pixels[start : start + CHUNK].contiguous().numpy().tobytes())
        rows = list(zip(self.captions, self.keys, self.seeds, strict=True))
        digest.update(json.dumps(rows, ensure_ascii=False).encode(errors="surrogatepass"))
        return digest.hexdigest()[:16]

    def take(self, count: int) -> SampleSet:
        """The first ``count`` images."""
        return self.select(range(min(count, len(self))))

    def select(self, rows: Sequence[int]) -> SampleSet:
        """The images at ``rows``, in that order."""
        return SampleSet(
            self.pixels[list(rows)],
            tuple(self.captions[row] for row in rows),
            tuple(self.keys[row] for row in rows),
            tuple(self.seeds[row] for row in rows),
            self.meta,
        )

    def save(self, folder: str | Path) -> None:
        """Writes the set; ``set.json`` comes last, so a half-written set is never loaded."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "set.json").unlink(missing_ok=True)
        (folder / "values.csv").unlink(missing_ok=True)
        with atomic_path(folder / "pixels.npy") as aside:
            np.save(aside, self.pixels.cpu().numpy())
        with atomic_path(folder / "manifest.jsonl") as aside:
            lines = [
                json.dumps({"key": k, "caption": c, "seed": s}, ensure_ascii=False)
                for k, c, s in zip(self.keys, self.captions, self.seeds, strict=True)
            ]
            aside.write_text("\n".join(lines) + "\n", encoding="utf-8")
        write_json(
            folder / "set.json",
            {"schema": SCHEMA, "n": len(self), "hash": self.hash, "meta": self.meta},
        )

    @staticmethod
    def load(folder: str | Path) -> SampleSet:
        """Opens a set and checks its hash; its pixels are read where they are used.

        Raises:
            ScoreError: the folder holds no whole set, or its content has changed.
        """
        folder = Path(folder)
        missing = [
            n for n in ("set.json", "pixels.npy", "manifest.jsonl") if not (folder / n).exists()
        ]
        if missing:
            raise ScoreError(
                f"{folder} holds no whole sample set ({', '.join(missing)} missing); {AGAIN}."
            )
        try:
            described = read_json_object(folder / "set.json", "meta", "hash", remedy=AGAIN)
            rows = read_rows(folder / "manifest.jsonl")
            pixels = read_pixels(folder / "pixels.npy")
        except ContentError as error:
            raise ScoreError(str(error)) from error
        if not isinstance(described["meta"], dict):
            raise ScoreError(f"{folder / 'set.json'} does not say how it was made; {AGAIN}.")
        if not rows or len(rows) != len(pixels):
            raise ScoreError(
                f"{folder / 'manifest.jsonl'} names {len(rows)} samples, pixels.npy holds "
                f"{len(pixels)}; {AGAIN}."
            )
        captions, keys, seeds = (tuple(row[name] for row in rows) for name in ROW)
        samples = SampleSet(pixels, captions, keys, seeds, described["meta"])
        if samples.hash != described["hash"]:
            raise ScoreError(
                f"{folder} has changed since it was written (hash {samples.hash}, expected "
                f"{described['hash']}); {AGAIN}."
            )
        return samples


ROW = {"caption": str, "key": str, "seed": int}
"""Entries of a line of manifest.jsonl, with their types."""


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Lines of manifest.jsonl.

    Raises:
        ContentError: a line is not JSON or lacks an entry, or there is none.
    """
    rows = []
    for number, line in enumerate(read_text(path, AGAIN).split("\n"), 1):
        if not line:
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        if not isinstance(row, dict) or any(type(row.get(n)) is not t for n, t in ROW.items()):
            raise ContentError(f"{path} names no sample in line {number}; {AGAIN}.")
        rows.append(row)
    if not rows:
        raise ContentError(f"{path} names no sample; {AGAIN}.")
    return rows


def read_pixels(path: Path) -> PixelImages:
    """Pixels (N, 3, H, W) of a set, mapped from disk; what is written to them stays in memory.

    Raises:
        ContentError: the file holds no such array, or not all of it.
    """
    try:
        found = np.load(path, mmap_mode="c", allow_pickle=False)
    # A header is parsed as Python's literals: a damaged one fails in any way.
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        if "allow_pickle" in reason:  # NumPy's advice is to load it unsafely
            reason = "it is no array of numbers"
        raise ContentError(f"{path} cannot be read ({reason}); {AGAIN}.") from error
    shape: tuple[int, ...] = getattr(found, "shape", ())
    if len(shape) != 4 or shape[1] != 3 or 0 in shape or found.dtype != np.uint8:
        raise ContentError(f"{path} holds no images (N, 3, H, W) of uint8; {AGAIN}.")
    return torch.from_numpy(found)


def save_values(
    folder: str | Path, samples: SampleSet, columns: Mapping[str, Sequence[float] | np.ndarray]
) -> None:
    """Writes ``values.csv``: per-image scores, from which runs are compared prompt by prompt.

    Args:
        folder: the sample set's folder.
        samples: the set that was scored.
        columns: one number an image for each score key; NaN where an image has none.
    """
    with (
        atomic_path(Path(folder) / "values.csv") as aside,
        open(aside, "w", newline="", encoding="utf-8") as file,
    ):
        writer = csv.writer(file)
        writer.writerow(["key", "seed", *columns])
        for row in zip(samples.keys, samples.seeds, *columns.values(), strict=True):
            writer.writerow([*row[:2], *(f"{value:.6g}" for value in row[2:])])


@dataclass(frozen=True)
class ImageValues:
    """The content of ``values.csv``.

    Attributes:
        keys: N prompt keys.
        seeds: N per-sample seeds.
        columns: score key -> (N,) numbers, NaN where an image has none.
    """

    keys: tuple[str, ...]
    seeds: tuple[int, ...]
    columns: dict[str, np.ndarray]


def load_values(folder: str | Path) -> ImageValues | None:
    """Reads ``values.csv``, or None where the set was not scored image by image.

    Raises:
        ScoreError: it cannot be read, or has changed since it was written.
    """
    path = Path(folder) / "values.csv"
    if not path.exists():
        return None
    try:
        header, *rows = csv.reader(io.StringIO(read_text(path, RESCORE), newline=""))
        if header[:2] != ["key", "seed"] or any(len(row) != len(header) for row in rows):
            raise ValueError("a row does not fit the heading")
        columns = {
            name: np.array([float(row[position]) for row in rows])
            for position, name in enumerate(header)
            if position >= 2
        }
        seeds = tuple(int(row[1]) for row in rows)
    except ContentError as error:
        raise ScoreError(str(error)) from error
    except (ValueError, csv.Error) as error:
        raise ScoreError(f"{path} cannot be read ({error}); {RESCORE}.") from error
    return ImageValues(tuple(row[0] for row in rows), seeds, columns)
