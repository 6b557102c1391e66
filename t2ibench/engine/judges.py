"""Judging networks of a specification: extractors, dual encoders, the exact grader."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from t2ibench.core.files import read_json
from t2ibench.data.cache import ArrayCache
from t2ibench.data.records import DataSource
from t2ibench.engine.build import instantiate
from t2ibench.engine.spec import ProtocolSpec, RunSpec
from t2ibench.evaluation.evaluator import Evaluator
from t2ibench.evaluation.interfaces import ExactGrader, ImageTextEncoder
from t2ibench.evaluation.measures import HardNegatives
from t2ibench.evaluation.protocol import Protocol
from t2ibench.metrics.dual_encoder import WEIGHTS, DualEncoder
from t2ibench.metrics.extractors.contract import FeatureExtractor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Judges:
    """Everything that judges sample sets of one data set.

    Attributes:
        source: the data set.
        extractors: networks of the distances.
        dual_encoders: networks of CLIP-score and R-precision.
        grader: the exact grader, or None.
        meaning: function from a caption to its meaning, or None.
        negatives: nearly true captions, or None.
        cache: cache of reference features.
    """

    source: DataSource
    extractors: tuple[FeatureExtractor, ...]
    dual_encoders: tuple[ImageTextEncoder, ...]
    grader: ExactGrader | None
    meaning: Callable[[str], Hashable] | None
    negatives: HardNegatives | None
    cache: ArrayCache

    def evaluator(self, protocol: Protocol) -> Evaluator:
        """The evaluator of a protocol.

        Raises:
            ScoreError: the data set or the networks do not fit the protocol.
        """
        protocol.check_source(self.source)
        return Evaluator(
            protocol=protocol,
            reference=self.source.split(protocol.reference_split),
            extractors=self.extractors,
            dual_encoders=self.dual_encoders,
            grader=self.grader,
            meaning=self.meaning,
            negatives=self.negatives,
            cache=self.cache,
            train=self.source.split("train") if protocol.memorisation else None,
        )

    def networks(self) -> dict[str, nn.Module]:
        """All networks by key, for the leakage guard."""
        found: dict[str, Any] = {e.key: e for e in self.extractors}
        return found | {d.key: d for d in self.dual_encoders if isinstance(d, nn.Module)}


def test_protocol(spec: ProtocolSpec) -> Protocol:
    """The protocol under which a run is scored."""
    return _protocol(spec, spec.name, spec.test, spec.memorisation)


def front_protocol(spec: ProtocolSpec) -> Protocol:
    """The protocol, on validation prompts, under which the knob is swept."""
    return _protocol(spec, f"{spec.name}-front", spec.front, False)


def heldout_protocol(spec: ProtocolSpec, source: DataSource) -> Protocol | None:
    """The protocol of compositions that training never showed, where the data set has them."""
    if spec.heldout is None or spec.heldout.split not in source.splits:
        return None
    return _protocol(spec, f"{spec.name}-heldout", spec.heldout, False)


def _protocol(spec: ProtocolSpec, name: str, prompts: Any, memorisation: bool) -> Protocol:
    return Protocol(
        name=name,
        **prompts.model_dump(),
        **spec.images.model_dump(),
        extractor=spec.extractor,
        r_precision_folds=spec.r_precision_folds,
        memorisation=memorisation,
    )


def make_judges(spec: RunSpec, source: DataSource, device: torch.device) -> Judges:
    """Loads the networks that ``evaluator`` names onto the device.

    Raises:
        MissingWeightsError: a network's weights are not on this machine.
    """
    extractors = tuple(instantiate(node) for node in spec.evaluator.extractors.values())
    encoders = dual_encoders(spec.evaluator.dual_encoder, spec.data.name, source.name)
    for network in (*extractors, *encoders):
        network.to(device)
    grader, meaning = None, None
    if spec.evaluator.grader and source.world is not None:
        from t2ibench.evaluation.shapes_grading import ShapesGrader

        exact = ShapesGrader(source.world)
        meaning = exact.meaning
        if source.world.gradable:
            grader = exact
        else:
            log.warning(
                "Shapes of %d px are not graded: the grader needs at least 32 px.",
                source.resolution,
            )
    return Judges(
        source=source,
        extractors=extractors,
        dual_encoders=encoders,
        grader=grader,
        meaning=meaning,
        negatives=hard_negatives_of(source),
        cache=ArrayCache(spec.paths.cache_folder / "features"),
    )


def dual_encoders(wanted: str | None, data: str, source: str) -> tuple[DualEncoder, ...]:
    """The dual encoders of an evaluator.

    Args:
        wanted: ``auto`` is the newest encoder shipped for this very data set, null none, else a
            name. The splits of one collection are different data sets: an encoder trained for
            ``compose`` has seen the test concepts of ``zeroshot``.
        data: name of the collection.
        source: name of the data set.
    """
    if wanted is None:
        return ()
    if wanted != "auto":
        return (DualEncoder.load(wanted),)
    found = WEIGHTS.glob(f"{data}-clip-v*/card.json")
    cards = {path.parent.name: read_json(path) for path in found}
    shipped = sorted(n for n, card in cards.items() if card["trained_on"]["data"] == source)
    return (DualEncoder.load(shipped[-1]),) if shipped else ()


def hard_negatives_of(source: DataSource) -> HardNegatives | None:
    """Nearly true captions for data sets whose captions can be parsed; None for others."""
    if source.world is not None:
        from t2ibench.data.shapes.negatives import hard_negatives

        return HardNegatives("changed", 9, lambda caption: hard_negatives(caption, source.world))
    if source.name.startswith("emoji_styles"):
        from t2ibench.data.emoji_styles.negatives import STYLE_NAMES, style_negatives

        return HardNegatives("styles", len(STYLE_NAMES) - 1, style_negatives)
    return None
