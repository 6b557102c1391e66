"""Whether two groups differ on one score: three tests and Holm's correction over all of them.

Where both have several training seeds, the seeds are the unit of replication (Welch's t), unless
no score differs between seeds, so that they tell no spread. Else means over images are compared
prompt by prompt (paired bootstrap and permutation), and distances by their intervals: such a
result is about these two sets of weights, not about two families.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from t2ibench.metrics.bootstrap import NORMAL_95, paired_difference
from t2ibench.metrics.inference import PERMUTATIONS, sign_flip_p_value
from t2ibench.reporting.statistics.groups import Group
from t2ibench.reporting.statistics.metrics import metric_of

Method = Literal["training seeds (Welch)", "paired by prompt", "intervals"]

NO_DIFFERENCE = "not distinguishable"
"""What is said where no difference holds."""

SIGNIFICANCE = 0.05
"""Family-wise error rate over all pairs and scores of one comparison."""

FLIPS_A_TEST = 25
"""Sign patterns for each test of the family: a p-value of 1 / patterns must survive Holm."""

FEW_FLIPS = 0.005
"""Above this p-value more sign patterns would change no verdict."""


class Contrast(NamedTuple):
    """A score on which two groups are compared.

    Attributes:
        first: a group that has the score.
        second: another.
        key: score key.
    """

    first: Group
    second: Group
    key: str


class Outcome(NamedTuple):
    """The result of a test.

    Attributes:
        difference: first - second.
        low: lower end of its 95% interval.
        high: upper end.
        p_value: of no difference.
        method: how it was tested.
    """

    difference: float
    low: float
    high: float
    p_value: float
    method: Method


@dataclass(frozen=True)
class MetricDifference:
    """One metric of a pair.

    Attributes:
        key: score key, the same for both.
        first: value of the first model.
        second: value of the second.
        difference: first - second.
        low: lower end of the 95% interval of the difference.
        high: upper end.
        p_value: of no difference, before correction.
        adjusted: after Holm's correction over the whole comparison.
        method: how it was tested.
    """

    key: str
    first: float
    second: float
    difference: float
    low: float
    high: float
    p_value: float
    method: Method
    adjusted: float = 1.0

    @property
    def distinguishable(self) -> bool:
        """True where the corrected p-value is below 0.05."""
        return self.adjusted < SIGNIFICANCE

    def winner(self, first: str, second: str) -> str:
        """The better model's name, or ``NO_DIFFERENCE``."""
        if not self.distinguishable:
            return NO_DIFFERENCE
        return first if self.difference * metric_of(self.key).sign > 0 else second

    def verdict(self, first: str, second: str) -> str:
        """The verdict in words."""
        winner = self.winner(first, second)
        return f"{winner} is better" if self.distinguishable else winner


def corrected_differences(contrasts: Sequence[Contrast]) -> list[MetricDifference]:
    """Tests every contrast of one comparison, p-values corrected over all of them."""
    flips = max(PERMUTATIONS, FLIPS_A_TEST * len(contrasts))
    over_seeds = iter(_welch_tests([c for c in contrasts if _has_spread(c)]))
    found = []
    for contrast in contrasts:
        first, second, key = contrast
        found.append(
            MetricDifference(
                key,
                first.scores[key].value,
                second.scores[key].value,
                *(next(over_seeds) if _has_spread(contrast) else _sample_test(contrast, flips)),
            )
        )
    return holm(found)


def holm(differences: Sequence[MetricDifference]) -> list[MetricDifference]:
    """Fills in Holm's step-down adjusted p-values.

    ``p_(i)`` sorted ascending of m: adjusted_(i) = max over j <= i of min(1, (m - j + 1) p_(j)).

    Source: Holm (1979), "A simple sequentially rejective multiple test procedure".
    Differs: none.
    """
    order = sorted(range(len(differences)), key=lambda i: differences[i].p_value)
    adjusted = list(differences)
    running = 0.0
    for rank, position in enumerate(order):
        scaled = min(1.0, (len(order) - rank) * differences[position].p_value)
        running = max(running, scaled)
        adjusted[position] = replace(differences[position], adjusted=running)
    return adjusted


def _has_spread(contrast: Contrast) -> bool:
    """Whether both groups have several seeds and those of one, at least, differ."""
    a, b = contrast.first.scores[contrast.key], contrast.second.scores[contrast.key]
    return min(a.seeds, b.seeds) >= 2 and bool(a.sd or b.sd)


def _welch_tests(contrasts: Sequence[Contrast]) -> list[Outcome]:
    """Welch's t over training seeds, one call of scipy for all contrasts of one shape."""
    from scipy.stats import ttest_ind

    values = [(c.first.seed_values(c.key), c.second.seed_values(c.key)) for c in contrasts]
    by_shape: dict[tuple[int, int], list[int]] = {}
    for position, (a, b) in enumerate(values):
        by_shape.setdefault((len(a), len(b)), []).append(position)
    found: dict[int, Outcome] = {}
    for positions in by_shape.values():
        a = np.stack([values[position][0] for position in positions])
        b = np.stack([values[position][1] for position in positions])
        with warnings.catch_warnings():
            # Seeds that agree to the last digit are no loss of precision; the other group has
            # the spread.
            warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
            result = ttest_ind(a, b, axis=1, equal_var=False)
        interval = result.confidence_interval(0.95)
        gaps = a.mean(axis=1) - b.mean(axis=1)
        rows = zip(gaps, interval.low, interval.high, result.pvalue, strict=True)
        for position, row in zip(positions, rows, strict=True):
            gap, low, high, p_value = map(float, row)
            found[position] = Outcome(gap, low, high, p_value, "training seeds (Welch)")
    return [found[position] for position in range(len(contrasts))]


def _sample_test(contrast: Contrast, flips: int) -> Outcome:
    """Two trained models apart: prompt by prompt where both drew the same, else by intervals."""
    paired = _paired_test(contrast, flips)
    if paired is not None:
        return paired
    from scipy.special import ndtr

    first, second, key = contrast
    gap = first.scores[key].value - second.scores[key].value
    sd = float(np.hypot(_sample_sd(first, key), _sample_sd(second, key)))
    half = NORMAL_95 * sd
    p_value = float(2 * ndtr(-abs(gap) / sd)) if sd > 0 else float(gap == 0)
    return Outcome(gap, gap - half, gap + half, p_value, "intervals")


def _paired_test(contrast: Contrast, flips: int) -> Outcome | None:
    """The difference over the prompts that both drew with the same seeds.

    The interval is a paired bootstrap's, the p-value a sign-flip permutation test's; both take
    prompts whole. None where the two did not draw the same.
    """
    a, b = contrast.first.runs[0].image_values, contrast.second.runs[0].image_values
    key = contrast.key
    if a is None or b is None or key not in a.columns or key not in b.columns:
        return None
    if a.keys != b.keys or a.seeds != b.seeds:
        return None
    x, y = a.columns[key], b.columns[key]
    asked = ~(np.isnan(x) | np.isnan(y))
    if not asked.any():
        return None
    clusters = [prompt for prompt, keep in zip(a.keys, asked, strict=True) if keep]
    found = paired_difference(x[asked], y[asked], clusters)
    p_value = sign_flip_p_value(x[asked], y[asked], clusters)
    if p_value < FEW_FLIPS and flips > PERMUTATIONS:
        p_value = sign_flip_p_value(x[asked], y[asked], clusters, permutations=flips)
    return Outcome(found.value, found.ci_low, found.ci_high, p_value, "paired by prompt")


def _sample_sd(group: Group, key: str) -> float:
    """Standard deviation behind the first run's own interval."""
    scores = next(r.scores.chosen.scores for r in group.runs if key in r.scores.chosen.scores)
    return (scores[key].ci_high - scores[key].ci_low) / (2 * NORMAL_95)
