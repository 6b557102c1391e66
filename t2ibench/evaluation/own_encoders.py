"""Recipes of the dual encoders that this package ships for its embedded data sets.

A recipe says what an encoder is trained on (train splits only), which words may stand for
one another in hard negatives, and what it must reach on real test pairs before its weights
are kept. Weights that differ in anything need a new name.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2ibench.core.errors import DataError
from t2ibench.core.types import PixelImages
from t2ibench.data.records import Record
from t2ibench.data.shapes.captions import parse, satisfies
from t2ibench.data.shapes.source import ShapesSource
from t2ibench.data.shapes.world import BACKGROUNDS, COLOURS, SHAPES_64, Scene
from t2ibench.metrics.dual_encoder import WEIGHTS, DualEncoder, Vocabulary
from t2ibench.metrics.dual_encoder_training import (
    ContrastiveBatch,
    TrainingPlan,
    acceptance,
    swap_words,
    train_dual_encoder,
)

log = logging.getLogger(__name__)

Negative = Callable[[Record, str, np.random.Generator], str | None]
"""A caption of a record made false, or None where no change is surely false."""


@dataclass(frozen=True)
class Recipe:
    """What an encoder is and how it is trained.

    Attributes:
        name: name and version.
        config: sizes, see ``dual_encoder.build_clip``.
        plan: steps, rates, seed.
        batch_size: images a step.
    """

    name: str
    config: dict[str, Any]
    plan: TrainingPlan
    batch_size: int


SHAPES = Recipe(
    name="shapes-clip-v1",
    config={
        "image_size": 32,
        "embed_dim": 128,
        "vision": {"width": 24, "layers": [1, 1, 1], "heads": 8},
        "text": {"width": 128, "layers": 2, "heads": 4, "context_length": 26},
    },
    plan=TrainingPlan(steps=820, learning_rate=1.5e-3),
    batch_size=192,
)

SHAPES_DATA_SEED = 4242
"""Not the seed of any generator's data."""

SHAPES_WORD_CLASSES: tuple[tuple[str, ...], ...] = (
    tuple(COLOURS),
    SHAPES_64,
    tuple("crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES_64),
    tuple(BACKGROUNDS),
    ("small", "large"),
    ("little", "big"),
    ("tiny", "huge"),
    ("two", "three"),
    ("left", "right"),
    ("above", "below"),
    ("over", "under"),
    ("higher", "lower"),
)


def shapes_negative(record: Record, caption: str, rng: np.random.Generator) -> str | None:
    """A changed caption that the record's scene surely does not satisfy."""
    scene = Scene.from_dict(record.meta["scene"])
    for _ in range(8):
        changed = swap_words(caption, SHAPES_WORD_CLASSES, rng)
        if changed is None:
            return None
        try:
            if not satisfies(parse(changed), scene):
                return changed
        except DataError:
            continue
    return None


@dataclass(frozen=True)
class Pairs:
    """Images at the encoder's size with their records."""

    pixels: PixelImages
    records: Sequence[Record]

    def batches(
        self, size: int, negative: Negative
    ) -> Callable[[np.random.Generator], ContrastiveBatch]:
        """Draws distinct images, one of their captions each, and a hard negative."""

        def draw(rng: np.random.Generator) -> ContrastiveBatch:
            picked = rng.choice(len(self.records), size, replace=False)
            captions, changed = [], []
            for i in picked:
                record = self.records[i]
                captions.append(record.captions[int(rng.integers(len(record.captions)))])
                false = negative(record, captions[-1], rng)
                if false is not None:
                    changed.append(false)
            return ContrastiveBatch(self.pixels[torch.from_numpy(picked)], captions, changed)

        return draw


def shapes_pairs(
    split: str, count: int, resolution: int, level: str, seed: int, cache: Path
) -> Pairs:
    """Pairs of the procedural world, averaged down to 32 px."""
    counts = {f"num_{name}": count if name == split else 1 for name in ("train", "val", "test")}
    source = ShapesSource(level, resolution, seed=seed, cache_dir=cache, **counts)
    prepared = source.split(split)
    return Pairs(_to_side(prepared.pixels(slice(None)), 32), prepared.records)


def _to_side(pixels: Tensor, side: int) -> Tensor:
    if pixels.shape[-1] == side:
        return pixels
    small = torch.nn.functional.interpolate(pixels.float(), (side, side), mode="area")
    return small.round().to(torch.uint8)


def train_shapes_encoder(
    cache: Path, folder: Path | None = None, steps: int | None = None, device: str = "cpu"
) -> dict[str, Any]:
    """Trains ``shapes-clip-v1`` on its own train scenes and writes it with its card.

    Args:
        cache: where scenes are rendered.
        folder: where to write; None: the package's own weights.
        steps: fewer steps than the recipe's, for tests.
        device: where to train.

    Returns:
        The card.
    """
    plan = SHAPES.plan if steps is None else TrainingPlan(steps=steps)
    count = 40_000 if steps is None else 2_000
    parts = [
        shapes_pairs("train", count * share // 10, side, "L1+L2+L3", SHAPES_DATA_SEED, cache)
        for side, share in ((32, 7), (64, 3))
    ]
    pairs = Pairs(
        torch.cat([part.pixels for part in parts]), [r for part in parts for r in part.records]
    )
    words = (caption for record in pairs.records for caption in record.captions)
    vocabulary = Vocabulary.of(words, SHAPES.config["text"]["context_length"])
    began = time.monotonic()
    draw = pairs.batches(SHAPES.batch_size, shapes_negative)
    encoder = train_dual_encoder(SHAPES.name, SHAPES.config, vocabulary, draw, plan, device=device)
    minutes = round((time.monotonic() - began) / 60, 1)
    card = {
        "trained_on": {
            "data": "shapes",
            "level": "L1+L2+L3",
            "split": "train",
            "data_seed": SHAPES_DATA_SEED,
            "images": {
                "32": len(parts[0].records),
                "64 (area-averaged to 32)": len(parts[1].records),
            },
        },
        "plan": asdict(plan) | {"batch_size": SHAPES.batch_size},
        "command": "t2ibench evaluator train shapes",
        "minutes": minutes,
        "acceptance": shapes_acceptance(encoder, cache),
        "licence": "Apache-2.0",
    }
    encoder.save(folder or WEIGHTS / SHAPES.name, card)
    return card


def shapes_acceptance(encoder: DualEncoder, cache: Path, count: int = 1000) -> dict[str, Any]:
    """Acceptance on test scenes of the generators' own data seed, by resolution and level."""
    found = {}
    for resolution in (32, 64):
        for level in ("L1", "L2", "L3"):
            pairs = shapes_pairs("test", count, resolution, level, 0, cache)
            rng = np.random.default_rng(0)
            captions = [record.captions[0] for record in pairs.records]
            found[f"{level}@{resolution}"] = acceptance(
                encoder,
                pairs.pixels,
                captions,
                [json.dumps(parse(caption).to_dict()) for caption in captions],
                [
                    shapes_negative(record, caption, rng)
                    for record, caption in zip(pairs.records, captions, strict=True)
                ],
            )
            log.info("%s %s@%d %s", encoder.name, level, resolution, found[f"{level}@{resolution}"])
    return found
