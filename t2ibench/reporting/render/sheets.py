"""Sample sheets: the same prompts with the same seeds, side by side over models.

Prompts are the protocol's first, which a hash chose: by rule, not by taste.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from t2ibench.core.types import PixelImages
from t2ibench.evaluation.samples import SampleSet
from t2ibench.reporting.statistics.leaderboard import Leaderboard

LARGEST_SIDE = 128
"""Greater images are reduced to this side on the page, to keep it small."""

LabelledSets = Sequence[tuple[str, SampleSet]]
"""A sample set of each model, with the model's label."""


@dataclass(frozen=True)
class Sheet:
    """Images of several models for the same prompts.

    Attributes:
        captions: one a row.
        labels: one a column.
        images: data URI of [row][column].
        side: of an image in its own pixels.
    """

    captions: tuple[str, ...]
    labels: tuple[str, ...]
    images: tuple[tuple[str, ...], ...]
    side: int


@dataclass(frozen=True)
class ContactSheet:
    """Many samples of one model in one image.

    Attributes:
        label: the model.
        image: data URI.
        width: in pixels.
    """

    label: str
    image: str
    width: int


def sample_sets(leaderboard: Leaderboard) -> list[tuple[str, SampleSet]]:
    """Reads the sample set of each group's first seed, where it was kept; by label.

    Raises:
        ScoreError: a set has changed since it was written.
    """
    found = [(group.label, group.runs[0].samples()) for group in leaderboard.groups]
    known = [(label, samples) for label, samples in found if samples is not None]
    return sorted(known, key=lambda labelled: labelled[0])


def comparison_sheet(sets: LabelledSets, rows: int = 12) -> Sheet | None:
    """The first prompts that every model with a kept sample set has drawn, or None."""
    if not sets:
        return None
    positions = [
        {pair: at for at, pair in enumerate(zip(samples.keys, samples.seeds, strict=True))}
        for _, samples in sets
    ]
    shared = [pair for pair in positions[0] if all(pair in other for other in positions)]
    if not shared:
        return None
    first = sets[0][1]
    chosen = _different_prompts(first, positions[0], shared, rows)
    return Sheet(
        tuple(first.captions[positions[0][pair]] for pair in chosen),
        tuple(label for label, _ in sets),
        tuple(
            tuple(
                data_uri(samples.pixels[where[pair]].numpy())
                for where, (_, samples) in zip(positions, sets, strict=True)
            )
            for pair in chosen
        ),
        min(first.resolution, LARGEST_SIDE),
    )


def contact_sheets(sets: LabelledSets, count: int = 48, columns: int = 12) -> list[ContactSheet]:
    """Each model's first ``count`` samples as one image."""
    sheets = []
    for label, samples in sets:
        grid = tile(samples.pixels[:count], columns)
        sheets.append(ContactSheet(label, data_uri(grid, largest=None), grid.shape[-1]))
    return sheets


def tile(pixels: PixelImages, columns: int, gap: int = 2) -> np.ndarray:
    """Images in rows of ``columns`` on a white ground with a gap: (3, H', W') uint8."""
    images = pixels.numpy()
    n, channels, height, width = images.shape
    columns = min(columns, n)
    rows = -(-n // columns)
    shape = (channels, rows * (height + gap) - gap, columns * (width + gap) - gap)
    grid = np.full(shape, 255, dtype=np.uint8)
    for i, image in enumerate(images):
        top, left = (i // columns) * (height + gap), (i % columns) * (width + gap)
        grid[:, top : top + height, left : left + width] = image
    return grid


def data_uri(image: np.ndarray, largest: int | None = LARGEST_SIDE) -> str:
    """A (3, H, W) uint8 image as a PNG data URI, reduced to ``largest`` where it is greater."""
    picture = Image.fromarray(np.ascontiguousarray(image.transpose(1, 2, 0)))
    if largest is not None and max(picture.size) > largest:
        picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG", optimize=True)
    return "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()


def _different_prompts(
    samples: SampleSet,
    positions: dict[tuple[str, int], int],
    shared: Sequence[tuple[str, int]],
    count: int,
) -> list[tuple[str, int]]:
    """The first ``count`` shared prompts whose captions differ."""
    chosen: dict[str, tuple[str, int]] = {}
    for pair in shared:
        chosen.setdefault(samples.captions[positions[pair]], pair)
        if len(chosen) == count:
            break
    return list(chosen.values())
