"""Types that every reader yields: records, prepared splits and the source that makes them.

A reader of any format ends in the same two things: uint8 images of one size and one
``Record`` an image. All other code knows only these.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch

from t2ibench.core.errors import DataError
from t2ibench.core.types import PixelImages

LOST = "\N{REPLACEMENT CHARACTER}"
"""Character that stands for one that was lost before a text was saved."""

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b\u2028\u2029\ufeff]+")
_HALF = re.compile(r"[\ud800-\udfff]")
"""Pattern of half a character, as JSON may escape one and no file can hold."""


@dataclass(frozen=True)
class Record:
    """One image's words and identity.

    Attributes:
        key: unique in its source; seeds and joins use it.
        captions: at least one, clean (see ``clean_caption``).
        group: images that must not be torn apart by a split share a group.
        split: the split it belongs to.
        meta: JSON-ready facts: scene, licence, source, style.
    """

    key: str
    captions: tuple[str, ...]
    group: str
    split: str
    meta: dict[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping (a line of ``manifest.jsonl``)."""
        return {
            "key": self.key,
            "captions": list(self.captions),
            "group": self.group,
            "split": self.split,
            "meta": self.meta,
        }

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> Record:
        """The inverse of ``to_dict``."""
        return Record(
            key=fields["key"],
            captions=tuple(fields["captions"]),
            group=fields["group"],
            split=fields["split"],
            meta=dict(fields.get("meta", {})),
        )


class PreparedSplit:
    """Images of one size in memory (or memory-mapped) with their records.

    Args:
        name: source and split, for example ``shapes/train``.
        images: (N, 3, H, W) uint8 array or memmap.
        records: N records, in the order of ``images``.
        fingerprint: the hash of images and captions when it is already known; else it is
            computed at first use.

    Raises:
        DataError: the array is not (N, 3, H, H) uint8 or the counts differ.
    """

    def __init__(
        self,
        name: str,
        images: np.ndarray,
        records: Sequence[Record],
        fingerprint: str | None = None,
    ) -> None:
        square = images.ndim == 4 and images.shape[1] == 3 and images.shape[2] == images.shape[3]
        if not square or images.dtype != np.uint8:
            raise DataError(
                f"{name}: images must be a (N, 3, H, H) uint8 array, not {images.dtype} "
                f"{tuple(images.shape)}; prepare the data set again."
            )
        if len(images) != len(records):
            raise DataError(
                f"{name}: {len(images)} images but {len(records)} records; "
                "prepare the data set again."
            )
        self.name = name
        self.images = images
        self.records = records
        self._fingerprint = fingerprint

    def __len__(self) -> int:
        return len(self.records)

    @property
    def resolution(self) -> int:
        """Side H of every image in pixels."""
        return int(self.images.shape[-1])

    @cached_property
    def fingerprint(self) -> str:
        """Hash of pixels, keys and captions: caches and reference features trust only this."""
        return self._fingerprint or fingerprint_of(self.images, self.records)

    def pixels(self, indices: Sequence[int] | np.ndarray | slice) -> PixelImages:
        """The images at ``indices`` as an owned (B, 3, H, W) uint8 tensor."""
        picked = indices if isinstance(indices, slice) else np.asarray(indices, dtype=np.int64)
        return torch.from_numpy(np.array(self.images[picked], dtype=np.uint8, order="C"))

    def first(self, count: int) -> PreparedSplit:
        """The split's first ``count`` images, as a split of its own."""
        return PreparedSplit(f"{self.name}[:{count}]", self.images[:count], self.records[:count])


@runtime_checkable
class DataSource(Protocol):
    """A captioned image data set, in prepared splits.

    Attributes:
        name: short name used in run folders and score keys.
        resolution: side of every image in pixels.
        fingerprint: content hash of everything that the source yields.
        splits: names that ``split`` accepts; ``train`` is among them.
        world: the procedural world that the grader needs, or None for real images.
    """

    name: str
    resolution: int
    fingerprint: str
    splits: tuple[str, ...]
    world: Any

    def split(self, name: str) -> PreparedSplit:
        """The prepared split of that name; prepared at first use and cached."""
        ...

    def count(self, name: str) -> int:
        """Images of a split at most (some may turn out unusable), known without preparing it."""
        ...

    def captions_with_every_word(self, name: str) -> Iterable[str]:
        """Captions in which every word of the split's captions occurs: all of them, or fewer.

        A data set that knows its captions before its images prepares none.
        """
        ...

    def split_fingerprint(self, name: str) -> str:
        """Content hash of one split, wherever the data set lies, known without preparing it.

        A run's identity has that of the training split.
        """
        ...


def fingerprint_of(images: np.ndarray, records: Sequence[Record], length: int = 12) -> str:
    """Hex SHA-256 over shape, pixels, keys and captions, in order."""
    digest = hashlib.sha256(f"{images.shape}".encode())
    for start in range(0, len(images), 1024):
        digest.update(np.ascontiguousarray(images[start : start + 1024]).data)
    for record in records:
        digest.update(json.dumps([record.key, record.captions], ensure_ascii=False).encode())
    return digest.hexdigest()[:length]


def clean_caption(text: str) -> str:
    r"""Cleans a caption: NFC, control characters and breaks to one space, ends stripped.

    Half a surrogate pair becomes ``LOST``.

    Example:
        >>> clean_caption("  a red\tring\n")
        'a red ring'
    """
    whole = _HALF.sub(LOST, unicodedata.normalize("NFC", text))
    return " ".join(_CONTROL.sub(" ", whole).split())


def unknown_split(source: str, name: str, splits: Sequence[str]) -> DataError:
    """The one error for a split name that a source does not have."""
    return DataError(f"{source} has no split {name!r}; it has {', '.join(splits)}.")


def write_records(path: str | Path, records: Sequence[Record]) -> None:
    """Writes ``manifest.jsonl``: one record a line (the caller gives an atomic path)."""
    with open(path, "w", encoding="utf-8") as file:
        for record in records:
            file.write(json.dumps(record.to_dict(), ensure_ascii=False) + "\n")


def read_records(path: str | Path) -> list[Record]:
    """Reads ``manifest.jsonl``."""
    with open(path, encoding="utf-8") as file:
        return [Record.from_dict(json.loads(line)) for line in file if line.strip()]
