"""The evaluator's instruments, from configuration: extractors, dual encoder, grader."""

from __future__ import annotations

import logging
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

from omegaconf import DictConfig, OmegaConf
from torch import nn

from t2ibench.cli.build import cache_root, create
from t2ibench.core.files import read_json
from t2ibench.data.cache import ArrayCache
from t2ibench.data.records import DataSource
from t2ibench.evaluation.evaluator import Evaluator
from t2ibench.evaluation.interfaces import ExactGrader, ImageTextEncoder
from t2ibench.evaluation.measures import HardNegatives
from t2ibench.evaluation.protocol import Protocol
from t2ibench.metrics.dual_encoder import WEIGHTS, DualEncoder
from t2ibench.metrics.extractors.contract import FeatureExtractor

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Instruments:
    """What judges sample sets of one data set.

    Attributes:
        source: the data set.
        extractors: networks of the distances.
        dual_encoders: dual encoders.
        grader: the exact grader, or None.
        meaning: caption to what it says, or None.
        negatives: nearly true captions, or None.
        cache: of reference features.
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
            ScoreError: the data set or the instruments are not what the protocol asks for.
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
        """Every network by its key, for the leakage guard."""
        found: dict[str, Any] = {e.key: e for e in self.extractors}
        return found | {a.key: a for a in self.dual_encoders if isinstance(a, nn.Module)}


def make_protocol(cfg: DictConfig, part: str) -> Protocol:
    """``protocol.test``, ``protocol.front`` or ``protocol.heldout``."""
    whole: Any = OmegaConf.to_container(cfg.protocol, resolve=True)
    name = whole["name"] if part == "test" else f"{whole['name']}-{part}"
    shared = {key: whole[key] for key in ("extractor", "r_precision_folds")}
    shared["memorisation"] = whole["memorisation"] and part == "test"
    return Protocol(name=name, **whole[part], **whole["images"], **shared)


def build_instruments(cfg: DictConfig, source: DataSource) -> Instruments:
    """Loads the instruments that ``evaluator`` names.

    Raises:
        MissingWeightsError: an extractor's or encoder's weights are not on this machine.
    """
    extractors = tuple(create(node) for node in cfg.evaluator.extractors.values())
    judge, meaning = (None, None)
    if cfg.evaluator.grader and source.world is not None:
        judge, meaning = shapes_judge(source)
    if judge is not None and not source.world.gradable:
        log.warning(
            "Shapes of %d px are not graded: the grader needs at least 32 px.", source.resolution
        )
        judge = None
    return Instruments(
        source=source,
        extractors=extractors,
        dual_encoders=dual_encoders(cfg, source.name),
        grader=judge,
        meaning=meaning,
        negatives=hard_negatives_of(source),
        cache=ArrayCache(cache_root(cfg) / "features"),
    )


def dual_encoders(cfg: DictConfig, data: str) -> tuple[DualEncoder, ...]:
    """``auto`` is the newest encoder shipped for this very data set, null none, else a name.

    The splits of one collection are different data sets: an encoder trained for ``compose`` has
    seen the test concepts of ``zeroshot``.
    """
    wanted = cfg.evaluator.dual_encoder
    if wanted is None:
        return ()
    if wanted != "auto":
        return (DualEncoder.load(wanted),)
    found = WEIGHTS.glob(f"{cfg.data.name}-clip-v*/card.json")
    cards = {path.parent.name: read_json(path) for path in found}
    shipped = sorted(n for n, card in cards.items() if card["trained_on"]["data"] == data)
    return (DualEncoder.load(shipped[-1]),) if shipped else ()


def hard_negatives_of(source: DataSource) -> HardNegatives | None:
    """Nearly true captions for the data sets whose captions can be read, None for others."""
    if source.world is not None:
        from t2ibench.data.shapes.negatives import hard_negatives

        return HardNegatives("changed", 9, lambda caption: hard_negatives(caption, source.world))
    if source.name.startswith("emoji_styles"):
        from t2ibench.data.emoji_styles.negatives import STYLE_NAMES, style_negatives

        return HardNegatives("styles", len(STYLE_NAMES) - 1, style_negatives)
    return None


def shapes_judge(source: Any) -> tuple[ExactGrader, Callable[[str], Hashable]]:
    """The exact grader bound to the procedural world of ``source``."""
    from t2ibench.evaluation.shapes_grading import ShapesGrader

    judge = ShapesGrader(source.world)
    return judge, judge.meaning
