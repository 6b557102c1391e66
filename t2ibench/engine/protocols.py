"""Scores of one set of images under several protocols: the effect of each convention."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from t2ibench.core.errors import ConfigError, MissingWeightsError, ScoreError, T2IBenchError
from t2ibench.core.files import atomic_path
from t2ibench.data.cache import ArrayCache
from t2ibench.data.records import DataSource
from t2ibench.engine.build import instantiate
from t2ibench.engine.components import Component
from t2ibench.engine.context import Context
from t2ibench.engine.judges import test_protocol
from t2ibench.engine.spec import ProtocolSpec
from t2ibench.evaluation.protocol import WHOLE_SPLIT, Protocol
from t2ibench.evaluation.samples import SampleSet
from t2ibench.evaluation.sensitivity import (
    conventions,
    sensitivity,
    to_csv,
    to_markdown,
    to_text,
)


@dataclass(frozen=True)
class ProtocolChoice:
    """Protocols and networks under which a set is scored.

    Attributes:
        protocols: named protocols.
        extractors: networks under their conventions, by label.
        as_sampled: True to score the whole set as well, whatever its size.
    """

    protocols: tuple[ProtocolSpec, ...]
    extractors: Mapping[str, Component]
    as_sampled: bool


def score_under_protocols(
    samples: SampleSet, context: Context, choice: ProtocolChoice, out: Path
) -> str:
    """Scores one set under every convention that fits; writes ``protocols.csv`` and ``.md``.

    Args:
        samples: one set of images.
        context: context with the reference data set and the images' own protocol.
        choice: the protocols and networks.
        out: folder of the two files.

    Returns:
        The table as text.

    Raises:
        ScoreError: no convention can be scored.
    """
    source, extractors, refused = context.source, [], []
    for label, component in choice.extractors.items():
        try:
            extractors.append(instantiate(component).to(context.device))
        except (MissingWeightsError, ConfigError) as error:
            refused.append(f"{label}: {error}")
    protocols, missing = _fitting(samples, source, context, choice)
    refused += missing
    for protocol in protocols:
        if protocol.extractor and protocol.extractor not in [e.key for e in extractors]:
            refused.append(f"{protocol.name}: {protocol.extractor} is not on this machine.")
    chosen = conventions(protocols, extractors, "train" in source.splits)
    cache = ArrayCache(context.spec.paths.cache_folder / "features")
    rows, unfit = sensitivity(samples, chosen, source.split, cache)
    refused += unfit
    if not rows:
        raise ScoreError(f"these images fit no convention: {' '.join(refused)}")
    out.mkdir(parents=True, exist_ok=True)
    for name, text in (
        ("protocols.csv", to_csv(rows)),
        ("protocols.md", to_markdown(rows, refused)),
    ):
        with atomic_path(out / name) as aside:
            aside.write_text(text, encoding="utf-8")
    return to_text(rows, refused)


def _fitting(
    samples: SampleSet, source: DataSource, context: Context, choice: ProtocolChoice
) -> tuple[list[Protocol], Sequence[str]]:
    """Protocols that these images fit, the images' own first, and reasons against the others."""
    own = test_protocol(context.spec.protocol)
    found: list[Protocol] = []
    refused: list[str] = []
    if choice.as_sampled:
        # The set as it is: every image, against as many or all real ones.
        whole = own if len(samples) == own.num_images else replace(own, num_images=len(samples))
        real = len(source.split(whole.reference_split))
        size = WHOLE_SPLIT if real < whole.reference_size else whole.reference_size
        found.append(replace(whole, name="as sampled", reference_size=size))
    for spec in choice.protocols:
        protocol = test_protocol(spec)
        try:
            protocol.check_source(source)
            if len(samples) < protocol.num_images:
                raise ScoreError(
                    f"it scores {protocol.num_images} images, the set has {len(samples)}."
                )
            if not any(replace(protocol, name=other.name) == other for other in found):
                found.append(protocol)
        except T2IBenchError as error:
            refused.append(f"{spec.name}: {error}")
    return found, refused
