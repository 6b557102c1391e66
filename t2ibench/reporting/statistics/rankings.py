"""How sure the order of the leaderboard is.

Rank probabilities ask: with other trainings (or other prompts, where there is one training each),
how often would each model come first?
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from t2ibench.metrics.inference import rank_probabilities, resampled_group_means
from t2ibench.metrics.prompt_resampling import resampled_means
from t2ibench.reporting.statistics.groups import Group
from t2ibench.reporting.statistics.leaderboard import Leaderboard
from t2ibench.reporting.statistics.metrics import metric_of
from t2ibench.reporting.statistics.prompt_columns import PromptColumns, asked, prompt_sums

Resampled = Literal["training seeds", "prompts", "samples"]

RESAMPLINGS = 4000


@dataclass(frozen=True)
class Ranking:
    """The order of the models on one score.

    Attributes:
        key: score key.
        basis: what a resampling draws anew: trainings (every model has several), prompts (the
            same for all), or samples (a distance, by its own interval's Student quantiles).
        probabilities: label -> probability of each rank, the best first.
    """

    key: str
    basis: Resampled
    probabilities: dict[str, tuple[float, ...]]


def rankings(leaderboard: Leaderboard, columns: PromptColumns | None = None) -> list[Ranking]:
    """Ranks the models on each score that at least two of them have.

    Args:
        leaderboard: the models.
        columns: scores image by image, where they are read already.
    """
    columns = PromptColumns() if columns is None else columns
    found = []
    for key in leaderboard.keys:
        groups = [group for group in leaderboard.groups if group.score(key) is not None]
        if len(groups) > 1:
            basis, draws = _resampled(groups, key, columns)
            shares = rank_probabilities(-metric_of(key).sign * draws)
            ranks = (tuple(float(share) for share in row) for row in shares)
            labels = (group.label for group in groups)
            found.append(Ranking(key, basis, dict(zip(labels, ranks, strict=True))))
    return found


def _resampled(
    groups: Sequence[Group], key: str, columns: PromptColumns
) -> tuple[Resampled, np.ndarray]:
    """(R, K) scores of every model in R resamplings."""
    values = [group.seed_values(key) for group in groups]
    if min(len(v) for v in values) > 1:
        return "training seeds", resampled_group_means(values, RESAMPLINGS)
    drawn = [columns.of(group, key) for group in groups]
    held = asked(drawn)
    if held is not None:
        table = prompt_sums([column for column in drawn if column is not None], held)
        return "prompts", resampled_means(table, RESAMPLINGS // 2)
    rng = np.random.default_rng(0)
    draws = []
    for group in groups:
        score = group.scores[key]
        error, df = group.sampling_error(key)
        if score.sd:
            error, df = score.sd / score.seeds**0.5, score.seeds - 1
        draws.append(score.value + error * rng.standard_t(df, RESAMPLINGS))
    return "samples", np.stack(draws, axis=1)
