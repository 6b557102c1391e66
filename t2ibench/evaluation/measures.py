"""Scores of features: one function for each kind of network, where further metrics join.

A metric joins in one place: add its estimate under ``NAME[inner]``, where ``inner`` already
names network, weights, reference or prompts, and N. Means over images go through
``Evaluation.add_mean``, which keeps their per-image column for paired comparisons.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
from jaxtyping import Bool, Float
from torch import Tensor

from t2ibench.core.types import Score
from t2ibench.evaluation.atomicity import AtomicityPoint
from t2ibench.evaluation.results import Scores
from t2ibench.metrics.alignment import (
    DISTRACTORS,
    clip_score,
    draw_distractors,
    fold_estimate,
    r_precision,
    retrieval,
)
from t2ibench.metrics.bootstrap import Estimate, bootstrap_mean
from t2ibench.metrics.diversity import (
    INCEPTION_SPLITS,
    inception_estimate,
    vendi_by_prompt,
    vendi_estimate,
)
from t2ibench.metrics.extrapolation import SizePoint, fd_infinity_estimate, size_curve
from t2ibench.metrics.frechet import frechet_estimate
from t2ibench.metrics.kernel import cmmd_estimate, kid_estimate
from t2ibench.metrics.memorisation import nearest_training
from t2ibench.metrics.neighbours import neighbours

EXTRAPOLATED = 2000
"""Images from which an extrapolation is worth its noise."""


@dataclass(frozen=True)
class Evaluation:
    """Scores of one sample set.

    Attributes:
        scores: score key -> score.
        columns: score key -> one number an image, for scores that are means over images.
        curves: key of a Fréchet distance -> its values for subsets of the images.
        atomicity: the grader's exact grades by the number of objects.
        halves: key of a distance -> its values for halves of the images; two sets of the same
            prompts have the same halves, so that their differences are paired.
        absent: names of scores that cannot be computed -> why, and what would bring them.
    """

    scores: Scores = field(default_factory=dict)
    columns: dict[str, np.ndarray] = field(default_factory=dict)
    curves: dict[str, list[SizePoint]] = field(default_factory=dict)
    atomicity: list[AtomicityPoint] = field(default_factory=list)
    halves: dict[str, tuple[float, ...]] = field(default_factory=dict)
    absent: dict[str, str] = field(default_factory=dict)

    def add(self, key: str, estimate: Estimate, n: int) -> None:
        """Files an estimate that rests on n images."""
        self.scores[key] = Score(
            estimate.value, n, estimate.ci_low, estimate.ci_high, key, estimate.note
        )
        if estimate.halves:
            self.halves[key] = estimate.halves

    def annotate(self, keys: Iterable[str], note: str) -> None:
        """Adds a note to some of the scores."""
        for key in keys:
            score = self.scores[key]
            self.scores[key] = replace(score, note="; ".join(filter(None, (score.note, note))))

    def add_mean(
        self, key: str, values: Float[np.ndarray, " N"], clusters: Sequence[Hashable]
    ) -> None:
        """Files a mean over images, its interval clustered by prompt, and its column.

        Args:
            key: the score's.
            values: (N,) numbers, NaN where an image has none.
            clusters: N prompt keys.
        """
        known = ~np.isnan(values)
        kept = [cluster for cluster, keep in zip(clusters, known, strict=True) if keep]
        self.add(key, bootstrap_mean(values[known], kept), int(known.sum()))
        self.columns[key] = values


@dataclass(frozen=True)
class HardNegatives:
    """Captions that are nearly true.

    Attributes:
        name: their name in score keys.
        count: how many a caption gets; captions that have fewer are left out.
        of: the negatives of one caption.
    """

    name: str
    count: int
    of: Callable[[str], Sequence[str]]


def extractor_distances(
    found: Evaluation,
    name: str,
    inner: str,
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M other"],
    clusters: Sequence[Hashable],
) -> None:
    """Fréchet (``name``: fid or fd), KID, precision, recall, density, coverage and Vendi score.

    From ``EXTRAPOLATED`` images on, also the Fréchet distance by number of images and that of
    unlimited ones; with several images of a prompt, also the Vendi score at equal prompt.
    """
    found.add(f"{name}[{inner}]", frechet_estimate(x, y, clusters=clusters), len(x))
    found.add(f"kid[{inner}]", kid_estimate(x, y, clusters=clusters), len(x))
    near = neighbours(x, y)
    for metric in ("precision", "density"):
        values = getattr(near, metric).double().numpy()
        found.add_mean(f"{metric}[{inner}]", values, clusters)
    for metric in ("recall", "coverage"):
        values = getattr(near, metric).double().numpy()
        found.add(f"{metric}[{inner}]", bootstrap_mean(values), len(x))
    found.add(f"vendi[{inner}]", vendi_estimate(x, clusters=clusters), len(x))
    if len(set(clusters)) < len(x):
        found.add(f"vendi_by_prompt[{inner}]", vendi_by_prompt(x, clusters), len(x))
    if len(x) >= EXTRAPOLATED:
        points = found.curves[f"{name}[{inner}]"] = size_curve(x, y)
        infinite = fd_infinity_estimate(x, y, clusters=clusters, points=points)
        found.add(f"{name}_inf[{inner}]", infinite, len(x))


def inception_score(
    found: Evaluation,
    inner: str,
    logits: Float[Tensor, "N K"],
    clusters: Sequence[Hashable],
) -> None:
    """Inception Score of the published Inception-v3; none with fewer than two images a split."""
    if len(logits) >= 2 * INCEPTION_SPLITS:
        key = f"inception_score[{inner}|{INCEPTION_SPLITS}-splits]"
        found.add(key, inception_estimate(logits, clusters=clusters), len(logits))


def memorisation(
    found: Evaluation,
    inner: str,
    x: Float[Tensor, "N D"],
    train: Float[Tensor, "T other"],
    clusters: Sequence[Hashable],
    heldout: Estimate | None = None,
) -> None:
    """AuthPct: the share of images that are no copies of training images.

    Args:
        found: evaluation that it joins.
        inner: text between the brackets of its key.
        x: (N, D) features of generated images.
        train: (T, D) features of the training images.
        clusters: N prompt keys.
        heldout: AuthPct of real images that training has not seen, with which it is to be read:
            it depends on the features and on the data, and is 50% only where a sphere around a
            training image is as likely to hold another real image as not.
    """
    values = nearest_training(x, train).authentic.double().numpy()
    key = f"authpct[{inner}]"
    found.add_mean(key, values, clusters)
    if heldout is not None:
        note = f"held-out real images have {100 * heldout.value:.1f}%"
        found.scores[key] = replace(found.scores[key], note=note)


def dual_encoder_distances(
    found: Evaluation,
    name: str,
    inner: str,
    x: Float[Tensor, "N D"],
    y: Float[Tensor, "M other"],
    clusters: Sequence[Hashable],
) -> None:
    """Fréchet distance and ``name`` (cmmd or cmmd-style) in a dual encoder's image space."""
    found.add(f"fd[{inner}]", frechet_estimate(x, y, clusters=clusters), len(x))
    found.add(f"{name}[{inner}]", cmmd_estimate(x, y, clusters=clusters), len(x))


def prompt_alignment(
    found: Evaluation,
    inner: str,
    image: Float[Tensor, "N D"],
    text: Float[Tensor, "N D"],
    meanings: Sequence[Hashable],
    clusters: Sequence[Hashable],
    folds: int = 0,
) -> None:
    """CLIP-score and R-precision (1 of 100), and, if ``folds`` > 0, its mean over folds."""
    found.add_mean(f"clip_score[{inner}]", clip_score(image, text).double().numpy(), clusters)
    meant = len(set(meanings))
    if meant <= DISTRACTORS:
        found.absent["r_precision"] = (
            f"it ranks each caption among {DISTRACTORS} others, here are {meant} captions of "
            f"different meaning: score at least {DISTRACTORS + 1} prompts"
        )
        return
    hits = retrieval(image, text, draw_distractors(meanings)).double().numpy()
    among = f"1-of-{DISTRACTORS + 1}"
    found.add_mean(f"r_precision[{inner}|{among}]", hits, clusters)
    if folds:
        key = f"r_precision_folds[{inner}|{among}|{folds}-folds]"
        found.add(key, fold_estimate(hits, folds), len(hits))


def hard_alignment(
    found: Evaluation,
    inner: str,
    image: Float[Tensor, "N D"],
    text: Float[Tensor, "N D"],
    negatives: Float[Tensor, "n K D"],
    complete: Bool[np.ndarray, " N"],
    name: str,
    clusters: Sequence[Hashable],
) -> None:
    """R-precision among hard negatives, over the n of N captions that have all K of them."""
    values = np.full(len(image), np.nan)
    values[complete] = r_precision(image[complete], text[complete], negatives).double().numpy()
    among = f"1-of-{negatives.shape[1] + 1}"
    found.add_mean(f"r_precision_hard[{inner}|{among}|{name}]", values, clusters)
