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
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from t2ibench.core.errors import ScoreError
from t2ibench.core.files import atomic_path, read_json_object, write_json
from t2ibench.core.types import PixelImages

SCHEMA = 1

CHUNK = 256
"""Images hashed and copied at a time."""


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
        digest.update(json.dumps(rows, ensure_ascii=False).encode())
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
                f"{folder} holds no whole sample set ({', '.join(missing)} missing); "
                "sample the run again."
            )
        described = read_json_object(folder / "set.json", "meta", "hash")
        text = (folder / "manifest.jsonl").read_text(encoding="utf-8")
        rows = [json.loads(line) for line in text.split("\n") if line]
        samples = SampleSet(
            # Copied on write: the file stays as it is, and the tensor is an ordinary one.
            torch.from_numpy(np.load(folder / "pixels.npy", mmap_mode="c", allow_pickle=False)),
            tuple(row["caption"] for row in rows),
            tuple(row["key"] for row in rows),
            tuple(int(row["seed"]) for row in rows),
            described["meta"],
        )
        if samples.hash != described["hash"]:
            raise ScoreError(
                f"{folder} has changed since it was written (hash {samples.hash}, expected "
                f"{described['hash']}); sample the run again."
            )
        return samples


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
    """Reads ``values.csv``, or None where the set was not scored image by image."""
    path = Path(folder) / "values.csv"
    if not path.exists():
        return None
    with open(path, newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    columns = {
        name: np.array([float(row[position]) for row in rows])
        for position, name in enumerate(header)
        if position >= 2
    }
    return ImageValues(tuple(r[0] for r in rows), tuple(int(r[1]) for r in rows), columns)
