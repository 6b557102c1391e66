"""Judging networks of a specification: extractors, dual encoders, the exact grader."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import torch
from torch import nn

from t2ibench.core.errors import MissingWeightsError, ScoreError
from t2ibench.core.files import read_json
from t2ibench.core.ranks import rank
from t2ibench.data.cache import ArrayCache
from t2ibench.data.records import DataSource
from t2ibench.engine.build import instantiate
from t2ibench.engine.components import Component, parameters_of
from t2ibench.engine.spec import ProtocolSpec, RunSpec
from t2ibench.evaluation.evaluator import NO_JUDGE_OF_ALIGNMENT, Evaluator
from t2ibench.evaluation.interfaces import ExactGrader, ImageTextEncoder
from t2ibench.evaluation.measures import HardNegatives
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.results import Scores
from t2ibench.metrics.dual_encoder import WEIGHTS, DualEncoder
from t2ibench.metrics.extractors.contract import FeatureExtractor
from t2ibench.metrics.extractors.published import PublishedWeights

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
        prepared: the data set as a protocol compares it; None: as it is.
    """

    source: DataSource
    extractors: tuple[FeatureExtractor, ...]
    dual_encoders: tuple[ImageTextEncoder, ...]
    grader: ExactGrader | None
    meaning: Callable[[str], Hashable] | None
    negatives: HardNegatives | None
    cache: ArrayCache
    prepared: Callable[[Protocol], DataSource] | None = None

    def evaluator(self, protocol: Protocol) -> Evaluator:
        """The evaluator of a protocol.

        Raises:
            ScoreError: the data set or the networks do not fit the protocol.
        """
        source = self.compared(protocol)
        protocol.check_source(source)
        return Evaluator(
            protocol=protocol,
            reference=source.split(protocol.reference_split),
            extractors=self.extractors,
            dual_encoders=self.dual_encoders,
            grader=self.grader,
            meaning=self.meaning,
            negatives=self.negatives,
            cache=self.cache,
            train=source.split("train") if self._memorised(protocol) else None,
        )

    def compared(self, protocol: Protocol) -> DataSource:
        """The data set as a protocol compares it: every image that is scored as real is of it."""
        return self.source if self.prepared is None else self.prepared(protocol)

    def _memorised(self, protocol: Protocol) -> bool:
        """True where images are compared with training images, and there are any."""
        return protocol.memorisation and "train" in self.source.splits

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
        MissingWeightsError: weights of networks are not on this machine.
    """
    check_weights(spec)
    extractors = tuple(instantiate(node) for node in spec.evaluator.extractors.values())
    encoders = dual_encoders(spec, source)
    if not encoders and rank() == 0:
        log.warning("No CLIP-score, no R-precision: %s.", NO_JUDGE_OF_ALIGNMENT)
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
        prepared=cache(partial(prepared_for, spec.data.source, source)),
    )


def floor_of(evaluator: Evaluator, real: DataSource) -> tuple[dict[str, Scores], dict[str, str]]:
    """Scores of real against real images at the same N; without so many, why there are none.

    Args:
        evaluator: the evaluator of a protocol.
        real: the data set as that protocol compares it.

    Returns:
        ``floor`` -> scores, and ``floor`` -> reason; one of them is empty.
    """
    names = dict.fromkeys((evaluator.protocol.split, "train"))
    splits = [real.split(name) for name in names if name in real.splits and real.count(name)]
    try:
        return {"floor": evaluator.floor(*splits)}, {}
    except ScoreError as error:
        return {}, {"floor": str(error)}


def prepared_for(component: Component, source: DataSource, protocol: Protocol) -> DataSource:
    """The data set prepared by a protocol's own filter at its own size.

    Only where its pictures can be made so: from files that are at least as large.
    """
    takes = parameters_of(component.cls)
    side = protocol.resolution or source.resolution
    own = getattr(getattr(source, "recipe", None), "filter", "")
    same = side == source.resolution and protocol.resize in ("", own)
    if same or side > source.resolution or not {"resolution", "filter"} <= set(takes):
        return source
    return instantiate(component, resolution=side, filter=protocol.resize or own)


def check_weights(spec: RunSpec) -> None:
    """Looks for the published weights of every network that the evaluator names.

    Raises:
        MissingWeightsError: some are not on this machine; one sentence names all.
    """
    missing: dict[str, MissingWeightsError] = {}
    for component in [
        *spec.evaluator.extractors.values(),
        *spec.evaluator.dual_encoders.values(),
    ]:
        weights_of = getattr(component.cls, "weights_of", None)
        if weights_of is None:
            continue
        weights: PublishedWeights = weights_of(**component.arguments)
        try:
            weights.locate(component.arguments.get(component.cls.weights_argument))
        except MissingWeightsError as absent:
            missing[weights.name] = absent
    if len(missing) > 1:
        raise MissingWeightsError(several_missing(list(missing)))
    for error in missing.values():
        raise error


def several_missing(names: Sequence[str]) -> str:
    """One sentence on several sets of published weights that are not here."""
    return (
        f"the evaluator's networks need published weights that are not on this machine "
        f"({', '.join(names)}): run `t2ibench fetch {' '.join(names)}` where there is a network, "
        "or leave networks out (evaluator/extractor=[NAME] evaluator/dual_encoder=[NAME])."
    )


class EmbeddedEncoder:
    """Choice of a dual encoder that the package ships (conf/evaluator/dual_encoder/embedded.yaml).

    Args:
        name: of the encoder; ``auto`` is the newest shipped for this very data set, if any. The
            splits of one collection are different data sets: an encoder trained for ``compose``
            has seen the test concepts of ``zeroshot``.
    """

    def __init__(self, name: str = "auto") -> None:
        self.name = name

    def chosen(self, data: str, source: str) -> str | None:
        """Name of the encoder for a data set, or None.

        Args:
            data: name of the collection.
            source: name of the data set.
        """
        if self.name != "auto":
            return self.name
        found = WEIGHTS.glob(f"{data}-clip-v*/card.json")
        cards = {path.parent.name: read_json(path) for path in found}
        shipped = sorted(n for n, card in cards.items() if card["trained_on"]["data"] == source)
        return shipped[-1] if shipped else None


def dual_encoders(spec: RunSpec, source: DataSource) -> tuple[ImageTextEncoder, ...]:
    """The dual encoders of an evaluator, the main one first."""
    found: list[ImageTextEncoder] = []
    for component in spec.evaluator.dual_encoders.values():
        judge = instantiate(component)
        if isinstance(judge, EmbeddedEncoder):
            name = judge.chosen(spec.data.name, source.name)
            judge = None if name is None else DualEncoder.load(name)
        if judge is not None:
            found.append(judge)
    return tuple(found)


def hard_negatives_of(source: DataSource) -> HardNegatives | None:
    """Nearly true captions for data sets whose captions can be parsed; None for others."""
    if source.world is not None:
        from t2ibench.data.shapes.negatives import hard_negatives

        return HardNegatives("changed", 9, lambda caption: hard_negatives(caption, source.world))
    if source.name.startswith("emoji_styles"):
        from t2ibench.data.emoji_styles.negatives import STYLE_NAMES, style_negatives

        return HardNegatives("styles", len(STYLE_NAMES) - 1, style_negatives)
    return None
