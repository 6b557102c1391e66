"""How sure the order of the leaderboard is.

Rank probabilities ask: with other trainings (or other prompts, where there is one training each),
how often would each model come first?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from t2ibench.metrics.bootstrap import NORMAL_95
from t2ibench.metrics.inference import (
    rank_probabilities,
    resampled_group_means,
    resampled_prompt_means,
)
from t2ibench.reporting.statistics.groups import Group
from t2ibench.reporting.statistics.leaderboard import Leaderboard
from t2ibench.reporting.statistics.metrics import metric_of

Resampled = Literal["training seeds", "prompts", "samples"]

RESAMPLINGS = 4000


@dataclass(frozen=True)
class Ranking:
    """The order of the models on one score.

    Attributes:
        key: score key.
        basis: what a resampling draws anew: trainings (every model has several), prompts (the
            same for all), or samples (a distance, by its own interval).
        probabilities: label -> probability of each rank, the best first.
    """

    key: str
    basis: Resampled
    probabilities: dict[str, tuple[float, ...]]


def rankings(leaderboard: Leaderboard) -> list[Ranking]:
    """Ranks the models on each score that at least two of them have."""
    found = []
    for key in leaderboard.keys:
        groups = [group for group in leaderboard.groups if group.score(key) is not None]
        if len(groups) > 1:
            basis, draws = _resampled(groups, key)
            shares = rank_probabilities(-metric_of(key).sign * draws)
            ranks = (tuple(float(share) for share in row) for row in shares)
            labels = (group.label for group in groups)
            found.append(Ranking(key, basis, dict(zip(labels, ranks, strict=True))))
    return found


def _resampled(groups: Sequence[Group], key: str) -> tuple[Resampled, np.ndarray]:
    """(R, K) scores of every model in R resamplings."""
    values = [group.seed_values(key) for group in groups]
    if min(len(v) for v in values) > 1:
        return "training seeds", resampled_group_means(values, RESAMPLINGS)
    tables = [group.runs[0].image_values for group in groups]
    known = [t for t in tables if t is not None and key in t.columns]
    if len(known) == len(groups) and len({(t.keys, t.seeds) for t in known}) == 1:
        asked = ~np.isnan(np.stack([t.columns[key] for t in known])).any(0)
        if asked.any():
            clusters = [k for k, keep in zip(known[0].keys, asked, strict=True) if keep]
            columns = [t.columns[key][asked] for t in known]
            return "prompts", resampled_prompt_means(columns, clusters, RESAMPLINGS // 2)
    rng = np.random.default_rng(0)
    scores = [group.scores[key] for group in groups]
    draws = [
        score.value + (score.high - score.low) / (2 * NORMAL_95) * rng.standard_normal(RESAMPLINGS)
        for score in scores
    ]
    return "samples", np.stack(draws, axis=1)
