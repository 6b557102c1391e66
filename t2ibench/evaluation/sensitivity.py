"""Protocol sensitivity: the same images under several published conventions.

One set of images has not one Fréchet distance but as many as there are networks, resizes, sample
sizes and reference splits. The table shows how far they lie apart; none of them may be compared
with another.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from t2ibench.core.errors import T2IBenchError
from t2ibench.core.types import Score
from t2ibench.data.records import PreparedSplit
from t2ibench.evaluation.evaluator import Evaluator
from t2ibench.evaluation.interfaces import FeatureCache
from t2ibench.evaluation.protocol import Protocol
from t2ibench.evaluation.results import Scores, by_metric
from t2ibench.evaluation.samples import SampleSet
from t2ibench.metrics.extractors.contract import FeatureExtractor

SMALLEST = 16
"""Fewest images that give a row of their own."""

COLUMNS = (
    "protocol", "network and resize", "images", "reference", "distance", "value", "95% low",
    "95% high", "of the first", "KID x1000", "precision", "recall", "key",
)  # fmt: skip


@dataclass(frozen=True)
class Convention:
    """One way to score the images.

    Attributes:
        label: of the row.
        protocol: N and reference.
        extractor: network and resize.
    """

    label: str
    protocol: Protocol
    extractor: FeatureExtractor


@dataclass(frozen=True)
class Row:
    """A convention and what the images score under it."""

    convention: Convention
    scores: Scores

    @property
    def distance(self) -> Score:
        """The Fréchet distance, ``fid`` or ``fd``."""
        return by_metric(self.scores)[self.convention.extractor.distance_name]


def conventions(
    protocols: Sequence[Protocol], extractors: Sequence[FeatureExtractor], train: bool
) -> list[Convention]:
    """Every protocol with every network; then the first with fewer images and another reference.

    A protocol that names its network is scored with that one alone.

    Args:
        protocols: the first is the images' own.
        extractors: the first is the main one.
        train: whether the data set's training split can be a reference too.
    """
    found = [
        Convention(protocol.name, protocol, extractor)
        for protocol in protocols
        for extractor in extractors
        if protocol.extractor in ("", extractor.key)
    ]
    if not found:
        return []
    own, main = found[0].protocol, found[0].extractor
    for share in (2, 4):
        fewer = own.num_images // share
        if fewer >= SMALLEST:
            label = f"{own.name}, 1/{share} of the images"
            found.append(Convention(label, replace(own, num_images=fewer), main))
    if train and own.reference_split != "train":
        label = f"{own.name}, training images"
        found.append(Convention(label, replace(own, reference_split="train"), main))
    return found


def sensitivity(
    samples: SampleSet,
    chosen: Sequence[Convention],
    split: Callable[[str], PreparedSplit],
    cache: FeatureCache | None = None,
) -> tuple[list[Row], list[str]]:
    """Scores one set under each convention; its features are extracted once a network.

    Args:
        samples: the images, in the order of their protocol's prompts: a smaller N takes the first.
        chosen: from ``conventions``.
        split: the data set's splits by name.
        cache: of reference features.

    Returns:
        The rows, and one sentence for each convention that these images cannot be scored under.
    """
    extracted: dict[str, Tensor] = {}
    rows, refused = [], []
    for convention in chosen:
        protocol, extractor = convention.protocol, convention.extractor
        try:
            part = samples.take(protocol.num_images)
            protocol.check(part)
            evaluator = Evaluator(
                protocol=protocol,
                reference=split(protocol.reference_split),
                extractors=[extractor],
                cache=cache,
            )
            if extractor.key not in extracted:
                extracted[extractor.key] = extractor.features(samples.pixels)
            features = extracted[extractor.key][: protocol.num_images]
            scores = evaluator.of_features(extractor.key, features, part.keys).scores
        except T2IBenchError as error:
            refused.append(f"{convention.label} ({extractor.key}): {error}")
            continue
        rows.append(Row(convention, scores))
    return rows, list(dict.fromkeys(refused))


def cells(rows: Sequence[Row]) -> list[list[str]]:
    """The table's cells, a list a row, in the order of ``COLUMNS``."""
    table = []
    for row in rows:
        named, distance = by_metric(row.scores), row.distance
        inner = distance.key.split("[", 1)[1].rstrip("]").split("|")
        table.append(
            [
                row.convention.label,
                row.convention.extractor.key,
                inner[-1],
                inner[-2],
                distance.metric,
                f"{distance.value:.3f}",
                f"{distance.ci_low:.3f}",
                f"{distance.ci_high:.3f}",
                f"{distance.value / rows[0].distance.value:.3f}" if rows[0].distance.value else "–",
                f"{1000 * named['kid'].value:.2f}",
                f"{named['precision'].value:.3f}",
                f"{named['recall'].value:.3f}",
                distance.key,
            ]
        )
    return table


def to_csv(rows: Sequence[Row]) -> str:
    """The table with its keys, for machines."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(COLUMNS)
    writer.writerows(cells(rows))
    return text.getvalue()


def to_markdown(rows: Sequence[Row], refused: Sequence[str]) -> str:
    """The table and what is missing from it, for people."""
    shown = [[cell.replace("|", " ") for cell in row[:-1]] for row in cells(rows)]
    lines = [
        "# Protocol sensitivity",
        "",
        "The same images under several conventions. No two rows may be compared with each other.",
        "",
        "| " + " | ".join(COLUMNS[:-1]) + " |",
        "|" + " --- |" * len(COLUMNS[:-1]),
        *("| " + " | ".join(row) + " |" for row in shown),
        *([""] if refused else []),
        *(f"* not scored: {reason}" for reason in refused),
    ]
    return "\n".join(lines) + "\n"


def to_text(rows: Sequence[Row], refused: Sequence[str]) -> str:
    """The table in aligned columns, for the terminal."""
    table = [list(COLUMNS[:-1]), *(row[:-1] for row in cells(rows))]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = [
        "  ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)).rstrip() for row in table
    ]
    return "\n".join([*lines, *(f"not scored: {reason}" for reason in refused)]) + "\n"
