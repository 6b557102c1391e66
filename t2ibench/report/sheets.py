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
from t2ibench.report.folders import ReportRun, samples_side_by_side
from t2ibench.report.tables import Leaderboard

LARGEST_SIDE = 128
"""Greater images are reduced to this side on the page, to keep it small."""


@dataclass(frozen=True)
class Sheet:
    """Images of several models for the same prompts.

    Attributes:
        captions: one a row.
        labels: one a column.
        images: data URI of [row][column]; empty where a model lacks the prompt.
        side: of an image in its own pixels.
    """

    captions: tuple[str, ...]
    labels: tuple[str, ...]
    images: tuple[tuple[str, ...], ...]
    side: int


def comparison_sheet(board: Leaderboard, rows: int = 12) -> Sheet | None:
    """The first prompts that every model with a kept sample set has drawn, or None."""
    found = _sets(board)
    if not found:
        return None
    answered = [
        {(k, s): i for i, (k, s) in enumerate(zip(samples.keys, samples.seeds, strict=True))}
        for _, samples in found
    ]
    shared = [pair for pair in answered[0] if all(pair in other for other in answered)]
    if not shared:
        return None
    chosen = _different_prompts(found[0][1], answered[0], shared, rows)
    first = found[0][1]
    return Sheet(
        tuple(first.captions[answered[0][pair]] for pair in chosen),
        tuple(label for label, _ in found),
        tuple(
            tuple(
                data_uri(samples.pixels[where[pair]].numpy())
                for where, (_, samples) in zip(answered, found, strict=True)
            )
            for pair in chosen
        ),
        min(first.resolution, LARGEST_SIDE),
    )


def contact_sheets(
    board: Leaderboard, count: int = 48, columns: int = 12
) -> list[tuple[str, str, int]]:
    """(label, data URI, width in pixels) of each model's first ``count`` samples."""
    sheets = []
    for label, samples in _sets(board):
        grid = tile(samples.pixels[:count], columns)
        sheets.append((label, data_uri(grid, largest=None), grid.shape[-1]))
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


def _sets(board: Leaderboard) -> list[tuple[str, SampleSet]]:
    """Label and sample set of each group's first seed, in the order of their names."""
    labels = {id(group.runs[0]): group.label for group in board.groups}
    runs: Sequence[ReportRun] = [group.runs[0] for group in board.groups]
    found = [(labels[id(run)], samples) for run, samples in samples_side_by_side(runs)]
    return sorted(found, key=lambda item: item[0])


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
