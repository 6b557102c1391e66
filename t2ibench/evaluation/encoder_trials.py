"""Trials of a dual encoder beyond its accuracy: does its score fall when images get worse?

An encoder may be right about pairs and still rank generators badly. Real test images
are damaged in known steps (blur, noise, dropped modes, shuffled captions); the Fréchet distance in
its image space must rise, and its CLIP-score fall, with each step. Two encoders that differ in
their training seed alone must put the damaged sets in the same order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.ndimage import gaussian_filter
from torch import Tensor

from t2ibench.core.errors import ScoreError
from t2ibench.core.types import PixelImages
from t2ibench.metrics.alignment import clip_score
from t2ibench.metrics.dual_encoder import DualEncoder
from t2ibench.metrics.frechet import frechet_distance

BLUR = (0.5, 1.0, 2.0, 4.0)
"""Standard deviation of the Gaussian blur, pixels."""
NOISE = (10.0, 20.0, 40.0, 80.0)
"""Standard deviation of the Gaussian noise, grey levels of 255."""
DROPPED = (0.25, 0.5, 0.75, 0.95)
"""Share of the distinct images that are lost; copies of the others fill their places."""
SHUFFLED = (0.25, 0.5, 0.75, 1.0)
"""Share of the images that get another one's caption."""

MOVES: dict[str, tuple[str, ...]] = {
    "blur": ("fd", "clip_score"),
    "noise": ("fd", "clip_score"),
    "mode_drop": ("fd",),
    "caption_shuffle": ("clip_score",),
}
"""Scores that each damage must move: copies of good images keep their CLIP-score, and a Fréchet
distance reads no captions."""


@dataclass(frozen=True)
class DamagedSet:
    """Real images made worse.

    Attributes:
        damage: key of ``MOVES``, or ``none``.
        strength: see ``BLUR``, ``NOISE``, ``DROPPED``, ``SHUFFLED``.
        pixels: (N, 3, H, W) uint8.
        captions: N captions that they are scored with.
    """

    damage: str
    strength: float
    pixels: PixelImages
    captions: Sequence[str]


def damaged_sets(
    pixels: PixelImages, captions: Sequence[str], seed: int = 0
) -> Iterator[DamagedSet]:
    """The set as it is, then each damage in rising strength.

    Args:
        pixels: (N, 3, H, W) real images.
        captions: N captions, one an image.
        seed: of the noise and of what is dropped or shuffled.
    """
    count = len(pixels)
    stream = torch.Generator().manual_seed(seed)
    order = torch.randperm(count, generator=stream)
    yield DamagedSet("none", 0.0, pixels, captions)
    for deviation in BLUR:
        sharp = pixels.numpy().astype(np.float32)
        blurred = gaussian_filter(sharp, (0, 0, deviation, deviation), mode="nearest")
        yield DamagedSet("blur", deviation, _as_pixels(torch.from_numpy(blurred)), captions)
    for deviation in NOISE:
        noise = torch.randn(pixels.shape, generator=stream) * deviation
        yield DamagedSet("noise", deviation, _as_pixels(pixels + noise), captions)
    for share in DROPPED:
        kept = order[: max(1, round(count * (1 - share)))]
        filled = kept[torch.arange(count) % len(kept)]
        yield DamagedSet("mode_drop", share, pixels[filled], [captions[i] for i in filled.tolist()])
    for share in SHUFFLED:
        moved = order[: round(count * share)]
        source = dict(zip(moved.tolist(), moved.roll(1).tolist(), strict=True))
        shuffled = [captions[source.get(i, i)] for i in range(count)]
        yield DamagedSet("caption_shuffle", share, pixels, shuffled)


def _as_pixels(values: Tensor) -> PixelImages:
    return values.round().clamp(0, 255).to(torch.uint8)


def trial(
    encoder: DualEncoder, reference: PixelImages, pixels: PixelImages, captions: Sequence[str]
) -> list[dict[str, Any]]:
    """Fréchet distance and CLIP-score of every damaged set.

    Args:
        encoder: the dual encoder on trial.
        reference: (M, 3, H, W) other real images.
        pixels: (N, 3, H, W) real images to damage.
        captions: N captions.

    Returns:
        One mapping a set: ``damage``, ``strength``, ``fd``, ``clip_score``.

    Raises:
        ScoreError: the captions are not one an image.
    """
    if len(captions) != len(pixels):
        raise ScoreError(f"{len(pixels)} images came with {len(captions)} captions.")
    real = encoder.image_features(reference)
    rows = []
    for found in damaged_sets(pixels, captions):
        image = encoder.image_features(found.pixels)
        text = encoder.text_features(list(found.captions))
        rows.append(
            {
                "damage": found.damage,
                "strength": found.strength,
                "fd": frechet_distance(image, real),
                "clip_score": float(clip_score(image, text).mean()),
            }
        )
    return rows


def monotone(rows: Sequence[dict[str, Any]]) -> dict[str, bool]:
    """Checks by ``damage/score`` that each step of a damage made the score worse."""
    start = next(row for row in rows if row["damage"] == "none")
    found = {}
    for damage, scores in MOVES.items():
        steps = [start, *(row for row in rows if row["damage"] == damage)]
        for score in scores:
            sign = 1 if score == "fd" else -1
            values = [sign * row[score] for row in steps]
            found[f"{damage}/{score}"] = all(
                later > earlier for earlier, later in zip(values, values[1:], strict=False)
            )
    return found


def rank_agreement(
    first: Sequence[dict[str, Any]], second: Sequence[dict[str, Any]]
) -> dict[str, float]:
    """Kendall's tau-b between two encoders' orders of the same damaged sets, by score.

    A score reads only the sets whose damage can move it (``MOVES``).

    Raises:
        ScoreError: the trials are of different sets.
    """
    from scipy.stats import kendalltau

    names = [(row["damage"], row["strength"]) for row in first]
    if names != [(row["damage"], row["strength"]) for row in second]:
        raise ScoreError("rank agreement needs two trials of the same damaged sets.")
    found = {}
    for score in ("fd", "clip_score"):
        moved = [
            i
            for i, (damage, _) in enumerate(names)
            if damage == "none" or score in MOVES.get(damage, ())
        ]
        pairs = [[rows[i][score] for i in moved] for rows in (first, second)]
        found[score] = float(kendalltau(*pairs).statistic)
    return found
