"""Recipes of the dual encoders that this package ships for its embedded data sets.

A recipe fixes what an encoder is trained on (train splits only), which words may stand for
one another in hard negatives, and what it must reach on real test pairs before its weights
are kept. Weights that differ in anything need a new name.
"""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from t2ibench.core.errors import DataError
from t2ibench.core.types import PixelImages
from t2ibench.data.emoji_styles.packages import STYLES
from t2ibench.data.emoji_styles.source import EmojiStylesSource
from t2ibench.data.records import Record
from t2ibench.data.shapes.captions import parse, satisfies
from t2ibench.data.shapes.source import ShapesSource
from t2ibench.data.shapes.world import BACKGROUNDS, COLOURS, SHAPES_64, Scene
from t2ibench.evaluation.encoder_trials import monotone, rank_agreement, trial
from t2ibench.metrics.dual_encoder import WEIGHTS, DualEncoder, Vocabulary
from t2ibench.metrics.dual_encoder_training import (
    ContrastiveBatch,
    TrainingPlan,
    acceptance,
    swap_words,
    train_dual_encoder,
)

log = logging.getLogger(__name__)

Negatives = Callable[[Record, str, np.random.Generator], list[str]]
"""Function that makes a record's caption false, in one way or several; empty if none is sure."""


@dataclass(frozen=True)
class Phase:
    """One stretch of training, from the weights of the one before.

    Attributes:
        plan: steps, rates, seed.
        batch_size: images a step.
        relation_share: share of every batch given to scenes with a relation, whose captions
            then also come with the opposite relation; None: as the data are.
        resolutions: which parts of the data.
    """

    plan: TrainingPlan
    batch_size: int = 192
    relation_share: float | None = None
    resolutions: tuple[int, ...] = (32, 64)


@dataclass(frozen=True)
class Recipe:
    """Architecture and training of one encoder.

    Attributes:
        name: name and version.
        config: sizes, see ``dual_encoder.build_clip``.
        phases: in order.
    """

    name: str
    config: dict[str, Any]
    phases: tuple[Phase, ...]


SHAPES = Recipe(
    name="shapes-clip-v1",
    config={
        "image_size": 32,
        "embed_dim": 128,
        "vision": {"width": 24, "layers": [1, 1, 1], "heads": 8},
        "text": {"width": 128, "layers": 2, "heads": 4, "context_length": 26},
    },
    phases=(
        Phase(TrainingPlan(steps=820, learning_rate=1.5e-3)),
        Phase(TrainingPlan(steps=240, learning_rate=1e-3), relation_share=2 / 3, resolutions=(32,)),
        Phase(TrainingPlan(steps=200, learning_rate=1e-3, seed=1), relation_share=2 / 3),
    ),
)

EMOJI = Recipe(
    name="emoji_styles-clip-v1",
    config={
        "image_size": 32,
        "embed_dim": 128,
        "vision": {"width": 24, "layers": [1, 1, 1], "heads": 8},
        "text": {"width": 128, "layers": 2, "heads": 4, "context_length": 18},
    },
    phases=(Phase(TrainingPlan(steps=1200, learning_rate=2e-3, weight_decay=0.2, shift=2)),),
)

SHAPES_DATA_SEED = 4242
"""Seed of the encoder's training scenes, which no generator's data have."""

SEED_STRIDE = 1000
"""Distance between the phases' seeds of two training seeds."""

RELATION_WORDS: tuple[tuple[str, ...], ...] = (
    ("left", "right"),
    ("above", "below"),
    ("over", "under"),
    ("higher", "lower"),
)
SHAPES_WORD_CLASSES: tuple[tuple[str, ...], ...] = (
    tuple(COLOURS),
    SHAPES_64,
    tuple("crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES_64),
    tuple(BACKGROUNDS),
    ("small", "large"),
    ("little", "big"),
    ("tiny", "huge"),
    ("two", "three"),
    *RELATION_WORDS,
)


def shapes_negatives(
    record: Record, caption: str, rng: np.random.Generator, opposite: bool = True
) -> list[str]:
    """Captions with one changed word or pair, and with the opposite relation where there is one.

    Every caption returned is one that the record's scene surely does not satisfy.

    Args:
        record: the image's record.
        caption: one of its captions.
        rng: of the changes.
        opposite: whether to give the opposite relation too.
    """
    scene = Scene.from_dict(record.meta["scene"])
    both = opposite and scene.relation is not None
    ways = (SHAPES_WORD_CLASSES, RELATION_WORDS) if both else (SHAPES_WORD_CLASSES,)
    found = (_made_false(caption, scene, classes, rng) for classes in ways)
    return [changed for changed in found if changed is not None]


def _made_false(
    caption: str, scene: Scene, classes: Sequence[Sequence[str]], rng: np.random.Generator
) -> str | None:
    for _ in range(8):
        changed = swap_words(caption, classes, rng)
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
    """Images at the encoder's size with their records.

    Attributes:
        pixels: (N, 3, 32, 32) uint8.
        records: N.
        fingerprint: content hash of the images before any averaging, and of their captions.
    """

    pixels: PixelImages
    records: Sequence[Record]
    fingerprint: str = ""

    def batches(
        self, size: int, negatives: Negatives, share: float | None = None
    ) -> Callable[[np.random.Generator], ContrastiveBatch]:
        """Draws distinct images, one of their captions each, and hard negatives.

        Args:
            size: images a batch.
            negatives: makes captions false.
            share: of every batch for scenes with a relation; None: all images are alike.
        """
        related = np.array([_has_relation(record) for record in self.records])
        first = 0 if share is None else round(size * share)
        related = related if first else np.zeros_like(related)
        pools = ((np.flatnonzero(related), first), (np.flatnonzero(~related), size - first))

        def draw(rng: np.random.Generator) -> ContrastiveBatch:
            parts = [rng.choice(pool, n, replace=False) for pool, n in pools if n]
            picked = np.concatenate(parts)
            captions: list[str] = []
            changed: list[str] = []
            for i in picked:
                record = self.records[i]
                captions.append(record.captions[int(rng.integers(len(record.captions)))])
                changed += negatives(record, captions[-1], rng)
            return ContrastiveBatch(self.pixels[torch.from_numpy(picked)], captions, changed)

        return draw

    def __add__(self, other: Pairs) -> Pairs:
        """Joins two sets of pairs."""
        return Pairs(torch.cat([self.pixels, other.pixels]), [*self.records, *other.records])


def _has_relation(record: Record) -> bool:
    return bool(record.meta.get("scene", {}).get("relation"))


def shapes_pairs(
    split: str, count: int, resolution: int, level: str, seed: int, cache: Path
) -> Pairs:
    """Pairs of the procedural world, averaged down to 32 px."""
    sizes = {name: count if name == split else 1 for name in ("train", "val", "test")}
    source = ShapesSource(
        level,
        resolution,
        num_train=sizes["train"],
        num_val=sizes["val"],
        num_test=sizes["test"],
        seed=seed,
        cache_dir=cache,
    )
    prepared = source.split(split)
    small = _to_side(prepared.pixels(slice(None)), 32)
    return Pairs(small, prepared.records, prepared.fingerprint)


def _to_side(pixels: Tensor, side: int) -> Tensor:
    if pixels.shape[-1] == side:
        return pixels
    small = torch.nn.functional.interpolate(pixels.float(), (side, side), mode="area")
    return small.round().to(torch.uint8)


def train_shapes_encoder(
    cache: Path,
    folder: Path | None = None,
    steps: int | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Trains ``shapes-clip-v1`` on its own train scenes and writes it with its card.

    Args:
        cache: where scenes are rendered.
        folder: where to write; None: the package's own weights.
        steps: fewer steps than the recipe's, for tests.
        device: where to train.
        seed: of the training; the shipped weights are those of 0.

    Returns:
        The card.
    """
    count = 40_000 if steps is None else 1_000
    parts = {
        side: shapes_pairs("train", count * share // 10, side, "L1+L2+L3", SHAPES_DATA_SEED, cache)
        for side, share in ((32, 7), (64, 3))
    }
    trained_on = {
        "data": "shapes",
        "level": "L1+L2+L3",
        "split": "train",
        "data_seed": SHAPES_DATA_SEED,
        "images": {str(side): len(part.records) for side, part in parts.items()},
        "fingerprint": {str(side): part.fingerprint for side, part in parts.items()},
        "resize": "64 px averaged to 32 px",
    }

    def draw(phase: Phase) -> Callable[[np.random.Generator], ContrastiveBatch]:
        chosen = [parts[side] for side in phase.resolutions]
        pairs = chosen[0] if len(chosen) == 1 else chosen[0] + chosen[1]
        negatives = partial(shapes_negatives, opposite=phase.relation_share is not None)
        return pairs.batches(phase.batch_size, negatives, phase.relation_share)

    words = (c for part in parts.values() for record in part.records for c in record.captions)
    encoder, facts = _trained(SHAPES, words, draw, steps, device, seed)
    found = check_shapes_encoder(encoder, cache, 1000 if steps is None else 60)
    card = {"trained_on": trained_on} | facts | found
    encoder.save(folder or WEIGHTS / SHAPES.name, card)
    return card


def _trained(
    recipe: Recipe,
    captions: Iterable[str],
    draw: Callable[[Phase], Callable[[np.random.Generator], ContrastiveBatch]],
    steps: int | None,
    device: str,
    seed: int,
) -> tuple[DualEncoder, dict[str, Any]]:
    """An encoder trained by its recipe, and how, for its card."""
    vocabulary = Vocabulary.of(captions, recipe.config["text"]["context_length"])
    began = time.monotonic()
    encoder = None
    for phase in recipe.phases:
        plan = replace(phase.plan, seed=phase.plan.seed + SEED_STRIDE * seed)
        plan = plan if steps is None else replace(plan, steps=steps)
        encoder = train_dual_encoder(
            recipe.name,
            recipe.config,
            vocabulary,
            draw(phase),
            plan,
            start=encoder,
            device=device,
        )
    assert encoder is not None, "a recipe has a phase"
    return encoder, {
        "phases": [asdict(phase) for phase in recipe.phases],
        "steps_of_each_phase": steps or "as planned",
        "seed": seed,
        "command": f"t2ibench evaluator train {recipe.name.split('-clip-')[0]}",
        "minutes": round((time.monotonic() - began) / 60, 1),
        "licence": "Apache-2.0",
    }


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
                    _made_false(
                        caption, Scene.from_dict(record.meta["scene"]), SHAPES_WORD_CLASSES, rng
                    )
                    for record, caption in zip(pairs.records, captions, strict=True)
                ],
            )
            log.info("%s %s@%d %s", encoder.name, level, resolution, found[f"{level}@{resolution}"])
    return found


def check_shapes_encoder(encoder: DualEncoder, cache: Path, count: int = 1000) -> dict[str, Any]:
    """Acceptance and the trial on damaged test scenes, of the generators' own data seed.

    Args:
        encoder: of shapes.
        cache: where scenes are rendered.
        count: images a resolution and level.
    """
    real, test = (shapes_pairs(name, count, 32, "L1+L2+L3", 0, cache) for name in ("val", "test"))
    captions = [record.captions[0] for record in test.records]
    rows = trial(encoder, real.pixels, test.pixels, captions)
    return {
        "acceptance": shapes_acceptance(encoder, cache, count),
        "trial": {"monotone": monotone(rows), "damaged_sets": rows},
    }


def check_emoji_encoder(encoder: DualEncoder, root: Path) -> dict[str, Any]:
    """Acceptance and the trial on damaged test drawings of ``compose``."""
    source = EmojiStylesSource(root, "compose", 32)
    real, test = source.split("val"), source.split("test")
    rng = np.random.default_rng(0)
    captions = [record.captions[0] for record in test.records]
    pixels = test.pixels(slice(None))
    negatives = [emoji_negatives(r, c, rng)[0] for r, c in zip(test.records, captions, strict=True)]
    reached = acceptance(encoder, pixels, captions, captions, negatives)
    log.info("%s %s", encoder.name, reached)
    rows = trial(encoder, real.pixels(slice(None)), pixels, captions)
    return {
        "acceptance": {"compose/test@32": reached},
        "trial": {"monotone": monotone(rows), "damaged_sets": rows},
    }


def twin_facts(found: dict[str, Any], twin: DualEncoder, check: dict[str, Any]) -> dict[str, Any]:
    """Facts for the card of how a second training seed ranks the same damaged sets.

    Args:
        found: the shipped encoder's check.
        twin: the second seed's encoder.
        check: its check, on the same images.
    """
    sets = [facts["trial"]["damaged_sets"] for facts in (found, check)]
    return {
        "sha256": twin.sha256,
        "acceptance": check["acceptance"],
        "monotone": check["trial"]["monotone"],
        "rank_agreement": rank_agreement(sets[0], sets[1]),
    }


def emoji_negatives(record: Record, caption: str, rng: np.random.Generator) -> list[str]:
    """The caption of the same drawing in another style."""
    styles = sorted({package.style for package in STYLES} - {record.meta["style"]})
    return [caption.replace(record.meta["style"], styles[int(rng.integers(len(styles)))])]


def train_emoji_encoder(
    root: Path,
    folder: Path | None = None,
    steps: int | None = None,
    device: str = "cpu",
    seed: int = 0,
) -> dict[str, Any]:
    """Trains ``emoji_styles-clip-v1`` on the train split of ``compose`` and writes it.

    Args:
        root: the prepared data set.
        folder: where to write; None: the package's own weights.
        steps: fewer steps than the recipe's, for tests.
        device: where to train.
        seed: of the training; the shipped weights are those of 0.

    Returns:
        The card.
    """
    source = EmojiStylesSource(root, "compose", 32)
    train = source.split("train")
    pairs = Pairs(train.pixels(slice(None)), train.records)
    words = (caption for record in pairs.records for caption in record.captions)
    trained_on = {
        "data": source.name,
        "split": "train",
        "fingerprint": train.fingerprint,
        "images": len(train),
        "not_for": "the zeroshot protocol, whose test concepts are among these images",
    }
    encoder, facts = _trained(
        EMOJI,
        words,
        lambda phase: pairs.batches(phase.batch_size, emoji_negatives),
        steps,
        device,
        seed,
    )
    card = {"trained_on": trained_on} | facts | check_emoji_encoder(encoder, root)
    encoder.save(folder or WEIGHTS / EMOJI.name, card)
    return card
