"""The operating point: which value of a knob a model is compared at.

All values of a knob answer the same prompts with the same seeds, so they are compared pair by
pair: what the prompts do to both is no difference between them.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np

from t2ibench.core.errors import ScoreError
from t2ibench.core.knobs import Knob
from t2ibench.evaluation.measures import Evaluation
from t2ibench.metrics.bootstrap import halves_p_value
from t2ibench.metrics.inference import sign_flip_p_value

ALIGNMENT = "clip_score"
"""The score for which the lowest distance may be left."""

LEVEL = 0.05
"""Level of the tests; that of a gain in alignment is shared among the values it is sought at."""

UNDERDETERMINED = "underdetermined"
"""First word of the note of a Fréchet distance with no more images than features."""


@dataclass(frozen=True)
class Candidate:
    """One value of the knob with what was measured there on the front's prompts.

    Attributes:
        value: of the knob.
        evaluation: its scores, columns and half-samples.
    """

    value: float
    evaluation: Evaluation


@dataclass(frozen=True)
class Choice:
    """The chosen value and why.

    Attributes:
        row: place of the chosen candidate.
        reason: one sentence.
        edge: ``lowest`` or ``highest`` where the chosen value is the end of the sweep and the
            knob could go further, so that the best value may lie beyond; else empty.
    """

    row: int
    reason: str
    edge: str


def choose_point(
    candidates: Sequence[Candidate],
    clusters: Sequence[Hashable],
    metric: str,
    network: str,
    knob: Knob,
) -> Choice:
    """Chooses the lowest distance, or a better alignment that costs no distance.

    The value with the lowest distance is left only for one whose alignment is distinguishably
    better (paired sign flips over prompts) and whose distance is not distinguishably worse (paired
    half-samples); of several the best aligned. So neither noise in the distance nor noise in the
    alignment moves a knob.

    Args:
        candidates: values of the knob on the same prompts and seeds.
        clusters: N prompt keys.
        metric: the distance that decides: ``fid``, ``fd`` or ``kid``.
        network: key of the extractor that measures it.
        knob: the knob.

    Raises:
        ScoreError: a candidate lacks the distance, or it is a Fréchet distance with no more
            images than features, which prefers images less diverse than real ones.
    """
    keys = [_key(candidate.evaluation, metric, network) for candidate in candidates]
    scores = [c.evaluation.scores[key] for c, key in zip(candidates, keys, strict=True)]
    if scores[0].note.startswith(UNDERDETERMINED):
        raise ScoreError(
            f"protocol.choose_by={metric} is {scores[0].note}: with so few images this distance is "
            "lowest for images less diverse than real ones; set protocol.choose_by=kid, or raise "
            "protocol.front.num_images and protocol.front.reference_size above the width."
        )
    best = min(range(len(scores)), key=lambda row: scores[row].value)
    halves = [c.evaluation.halves[key] for c, key in zip(candidates, keys, strict=True)]
    # A gain is sought at every other value: the level of each test is that share of the whole.
    level = LEVEL / max(1, len(candidates) - 1)
    aligned = [_alignment(candidate.evaluation) for candidate in candidates]
    row, gain = best, 0.0
    for other, values in enumerate(aligned):
        start = aligned[best]
        if other == best or values is None or start is None:
            continue
        better = float(np.mean(values) - np.mean(start))
        if better <= gain or sign_flip_p_value(values, start, clusters) > level:
            continue
        pair = (scores[other].value, scores[best].value, halves[other], halves[best])
        if halves_p_value(*pair) > LEVEL:
            row, gain = other, better
    lowest, value = candidates[best].value, candidates[row].value
    name, printed = knob.name, f"{scores[best].value:.4g}"
    reason = f"lowest {metric} ({printed}) at {name}={lowest:g}"
    if row != best:
        reason += (
            f"; at {name}={value:g} {ALIGNMENT} is {gain:.2f} higher and {metric} "
            f"({scores[row].value:.4g}) not distinguishable"
        )
    return Choice(row, reason, edge_of([c.value for c in candidates], value, knob))


def edge_of(sweep: Sequence[float], value: float, knob: Knob) -> str:
    """Says at which end of a sweep a value lies, where the knob could go beyond; else empty.

    Example:
        >>> scale = Knob("guidance_scale", default=3.0, low=0.0, high=20.0)
        >>> edge_of([1.0, 2.0, 4.0], 4.0, scale), edge_of([1.0, 2.0, 4.0], 2.0, scale)
        ('highest', '')
        >>> edge_of([0.5, 1.0], 1.0, Knob("truncation", default=1.0, low=0.0, high=1.0))
        ''
        >>> edge_of([4.0], 4.0, scale)
        ''
    """
    if min(sweep) == max(sweep):  # nothing was chosen
        return ""
    if value == max(sweep) and value < knob.high:
        return "highest"
    if value == min(sweep) and value > knob.low:
        return "lowest"
    return ""


def _key(evaluation: Evaluation, metric: str, network: str) -> str:
    """Key of the distance in that network's features."""
    start = f"{metric}[{network}|"
    found = next((key for key in evaluation.scores if key.startswith(start)), None)
    if found is None:
        raise ScoreError(
            f"protocol.choose_by={metric} is not measured by {network} on the front; set "
            "protocol.choose_by=null to keep the family's default, or give an extractor."
        )
    return found


def _alignment(evaluation: Evaluation) -> np.ndarray | None:
    """Alignment of each image by the first dual encoder; None without one."""
    start = f"{ALIGNMENT}["
    return next((v for key, v in evaluation.columns.items() if key.startswith(start)), None)
