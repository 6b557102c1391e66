"""Pairs of models: which differences hold, and how their configurations differ.

Where both have several training seeds, the seeds are the unit of replication (Welch's t), unless
no score differs between seeds, so that they tell no spread. Else means over images are compared
prompt by prompt (paired bootstrap and permutation), and distances by their intervals: such a
result is about these two sets of weights, not about two families.

Every test of one comparison is in one family: the scores of all pairs. So of all its "is better",
the chance that any is wrong is at most 5%, however many runs are compared; to ask one question
with more power, compare fewer runs or one metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from statistics import NormalDist
from typing import Any, Literal

import numpy as np

from t2ibench.metrics.bootstrap import NORMAL_95, paired_difference
from t2ibench.metrics.inference import PERMUTATIONS, sign_flip_p_value
from t2ibench.report.columns import metric_of
from t2ibench.report.folders import RESULT_FREE
from t2ibench.report.groups import Group, t_quantile
from t2ibench.report.tables import Leaderboard

Method = Literal["training seeds (Welch)", "paired by prompt", "intervals"]

NO_DIFFERENCE = "not distinguishable"
"""What is said where no difference holds."""

SIGNIFICANCE = 0.05
"""Family-wise error rate over all pairs and scores of one comparison."""

FLIPS_A_TEST = 25
"""Sign patterns for each test of the family: a p-value of 1 / patterns must survive Holm."""

FEW_FLIPS = 0.005
"""Above this p-value more sign patterns would change no verdict."""


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
        higher_is_better = metric_of(self.key).better == "higher"
        return first if (self.difference > 0) == higher_is_better else second

    def verdict(self, first: str, second: str) -> str:
        """The verdict in words."""
        winner = self.winner(first, second)
        return f"{winner} is better" if self.distinguishable else winner


@dataclass(frozen=True)
class Comparison:
    """Two models.

    Attributes:
        first: label.
        second: label.
        differences: one a shared score key.
        configuration: (dotted key, first's value, second's value) where they differ.
        caveat: what the result does not say; empty with several training seeds each and no
            holes.
    """

    first: str
    second: str
    differences: tuple[MetricDifference, ...]
    configuration: tuple[tuple[str, str, str], ...]
    caveat: str


def compare_all(board: Leaderboard) -> list[Comparison]:
    """Every pair of the leaderboard, on its columns, in its order."""
    return compare_groups(board.groups, [column.key for column in board.columns])


def compare(first: Group, second: Group, keys: Sequence[str]) -> Comparison:
    """Two groups alone, on the score keys that both have."""
    return compare_groups((first, second), keys)[0]


def compare_groups(groups: Sequence[Group], keys: Sequence[str]) -> list[Comparison]:
    """Every pair on the keys that both have; p-values corrected over all of them together."""
    pairs = list(combinations(groups, 2))
    shared = [
        [key for key in keys if first.cell(key) is not None and second.cell(key) is not None]
        for first, second in pairs
    ]
    flips = max(PERMUTATIONS, FLIPS_A_TEST * sum(map(len, shared)))
    tested = [
        [_difference(first, second, key, flips) for key in asked]
        for (first, second), asked in zip(pairs, shared, strict=True)
    ]
    adjusted = iter(holm([difference for found in tested for difference in found]))
    return [
        Comparison(
            first.label,
            second.label,
            tuple(next(adjusted) for _ in found),
            tuple(configuration_difference(first.runs[0].config, second.runs[0].config)),
            _caveat(first, second),
        )
        for (first, second), found in zip(pairs, tested, strict=True)
    ]


def family_sentence(comparisons: Sequence[Comparison]) -> str:
    """Over which tests p-values are corrected, and what that means; empty without a pair."""
    keys = {difference.key for pair in comparisons for difference in pair.differences}
    tests = sum(len(pair.differences) for pair in comparisons)
    if not tests:
        return ""
    return (
        f"p-values are Holm's over all {tests} tests of this comparison ({len(comparisons)} "
        f"pair{'s' if len(comparisons) != 1 else ''}, {len(keys)} score"
        f'{"s" if len(keys) != 1 else ""}): the chance that any of its "is better" is wrong is '
        f"at most {SIGNIFICANCE:.0%}."
    )


def leaders(board: Leaderboard, comparisons: Sequence[Comparison]) -> dict[str, frozenset[str]]:
    """Column key -> the best group and those that are not distinguishable from it."""
    tied = {
        (pair.first, pair.second, difference.key)
        for pair in comparisons
        for difference in pair.differences
        if not difference.distinguishable
    }
    found = {}
    for column in board.columns:
        cells = {g.label: cell for g in board.groups if (cell := g.cell(column.key)) is not None}
        if len(board.groups) < 2:
            found[column.key] = frozenset[str]()
            continue
        sign = 1 if column.metric.better == "higher" else -1
        best = max(cells, key=lambda label: sign * cells[label].value)
        found[column.key] = frozenset(
            label
            for label in cells
            if label == best
            or (label, best, column.key) in tied
            or (best, label, column.key) in tied
        )
    return found


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


def configuration_difference(
    first: Mapping[str, Any], second: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """Dotted keys whose values differ, what cannot change a result left out."""
    left, right = _flat(first), _flat(second)
    keys = list(dict.fromkeys([*left, *right]))
    absent = "–"
    return [
        (key, left.get(key, absent), right.get(key, absent))
        for key in keys
        if key.split(".", 1)[0] not in RESULT_FREE and left.get(key) != right.get(key)
    ]


def _difference(first: Group, second: Group, key: str, flips: int) -> MetricDifference:
    a, b = first.cell(key), second.cell(key)
    assert a is not None and b is not None, "only shared keys are compared"
    gap = a.value - b.value
    if min(a.seeds, b.seeds) >= 2 and (a.sd or b.sd):
        low, high, p_value = _welch(first, second, key)
        return MetricDifference(
            key, a.value, b.value, gap, low, high, p_value, "training seeds (Welch)"
        )
    paired = _paired(first, second, key, flips)
    if paired is not None:
        value, low, high, p_value = paired
        return MetricDifference(
            key, a.value, b.value, value, low, high, p_value, "paired by prompt"
        )
    sd = np.hypot(_sd_of(first, key), _sd_of(second, key))
    half = float(NORMAL_95 * sd)
    p_value = 2 * (1 - NormalDist().cdf(abs(gap) / sd)) if sd > 0 else float(gap == 0)
    return MetricDifference(
        key, a.value, b.value, gap, gap - half, gap + half, float(p_value), "intervals"
    )


def seed_values(group: Group, key: str) -> np.ndarray:
    """(S,) one value a training seed."""
    scored = [run.scores.chosen.scores for run in group.runs]
    return np.array([scores[key].value for scores in scored if key in scores])


def _welch(first: Group, second: Group, key: str) -> tuple[float, float, float]:
    """Interval and p-value of a difference of means over training seeds."""
    from scipy.stats import t

    a, b = seed_values(first, key), seed_values(second, key)
    parts = a.var(ddof=1) / len(a), b.var(ddof=1) / len(b)
    gap, error = float(a.mean() - b.mean()), float(np.sqrt(sum(parts)))
    degrees = sum(parts) ** 2 / (parts[0] ** 2 / (len(a) - 1) + parts[1] ** 2 / (len(b) - 1))
    half = t_quantile(degrees) * error
    return gap - half, gap + half, float(2 * t.sf(abs(gap) / error, degrees))


def _paired(
    first: Group, second: Group, key: str, flips: int
) -> tuple[float, float, float, float] | None:
    """Difference, interval and p-value over the prompts that both drew with the same seeds.

    The interval is a paired bootstrap's, the p-value a sign-flip permutation test's; both take
    prompts whole. None where the two did not draw the same.
    """
    a, b = first.runs[0].image_values(), second.runs[0].image_values()
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
    return found.value, found.ci_low, found.ci_high, p_value


def _sd_of(group: Group, key: str) -> float:
    """Standard deviation behind the first run's own interval."""
    scores = next(r.scores.chosen.scores for r in group.runs if key in r.scores.chosen.scores)
    return (scores[key].ci_high - scores[key].ci_low) / (2 * NORMAL_95)


def _flat(config: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    flat: dict[str, str] = {}
    for name, value in config.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{key}.")
        else:
            flat[key] = str(value)
    return flat


def _caveat(first: Group, second: Group) -> str:
    """What the pair's result does not say."""
    said = []
    if min(first.seeds, second.seeds) < 2:
        said.append(
            f"{first.label} has {_seeds(first.seeds)} and {second.label} {_seeds(second.seeds)}: "
            "this tells these trained weights apart, not the families; train at least 3 seeds each."
        )
    said += [
        f"{group.label} has {group.seeds_text}: what the others would have scored is not in this."
        for group in (first, second)
        if group.seeds < group.planned
    ]
    return " ".join(said)


def _seeds(count: int) -> str:
    return f"{count} training seed{'s' if count != 1 else ''}"
