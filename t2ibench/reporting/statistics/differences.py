"""Whether two groups differ on one score: the tests, and Holm's correction over all of them.

Training seeds are the unit of replication: several against several by Welch's t, by the
Behrens-Fisher test where one has more seeds than the other (Welch's t then rejects up to 40 times
too often in the far tail that the correction asks), and one training against several by Student's
t, as if one more of the several. With equally many seeds Welch's t keeps its level where both
spread alike; with 3 each, one of them ten times as spread, it rejects 1.15 times too often at 0.05
and 5 times at 1.4e-4. Where each has one training, or no score differs between seeds so that they
tell no spread, means over images are compared prompt by prompt (paired bootstrap and permutation),
and distances by their intervals: such a result is about these sets of weights, not about two
families. Whichever it is, a group's every run counts.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal, NamedTuple

import numpy as np

from t2ibench.metrics.behrens_fisher import behrens_fisher_half_widths, behrens_fisher_p_values
from t2ibench.metrics.prompt_resampling import PERMUTATIONS, resampled_means, sign_flip_p_values
from t2ibench.reporting.statistics.groups import Group, GroupScore
from t2ibench.reporting.statistics.metrics import metric_of
from t2ibench.reporting.statistics.prompt_columns import (
    PromptColumn,
    PromptColumns,
    asked,
    prompt_sums,
)

WELCH: Literal["training seeds (Welch)"] = "training seeds (Welch)"

Method = Literal[
    "training seeds (Welch)",
    "training seeds (Behrens-Fisher)",
    "one training against several (t)",
    "paired by prompt",
    "intervals",
]

OVER_TRAININGS: tuple[Method, ...] = (
    WELCH,
    "training seeds (Behrens-Fisher)",
    "one training against several (t)",
)
"""Methods whose intervals cover another training."""

NO_DIFFERENCE = "not distinguishable"
"""What is said where no difference holds."""

SIGNIFICANCE = 0.05
"""Family-wise error rate over all pairs and scores of one comparison."""

FLIPS_A_TEST = 25
"""Sign patterns for each test that is open: a p-value of 1 / patterns must survive Holm."""

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

    @property
    def first_score(self) -> GroupScore:
        """The first group's score."""
        return self.first.scores[self.key]

    @property
    def second_score(self) -> GroupScore:
        """The second group's score."""
        return self.second.scores[self.key]


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


def corrected_differences(
    contrasts: Sequence[Contrast], columns: PromptColumns | None = None
) -> list[MetricDifference]:
    """Tests every contrast of one comparison, p-values corrected over all of them.

    Args:
        contrasts: what is asked.
        columns: scores image by image, where they are read already.
    """
    columns = PromptColumns() if columns is None else columns
    tests: dict[Hashable, Tests] = {
        WELCH: _welch,
        "training seeds (Behrens-Fisher)": _behrens_fisher,
        "one training against several (t)": _one_against_several,
        "paired by prompt": partial(_paired, columns=columns, family=len(contrasts)),
        "intervals": _intervals,
    }
    outcomes = _in_batches(contrasts, lambda c: _method_of(c, columns), tests.__getitem__)
    return holm(
        [
            MetricDifference(c.key, c.first_score.value, c.second_score.value, *outcome)
            for c, outcome in zip(contrasts, outcomes, strict=True)
        ]
    )


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


Tests = Callable[[Sequence[Contrast]], list[Outcome]]
"""Function that answers contrasts of one kind together."""


def _method_of(contrast: Contrast, columns: PromptColumns) -> Method:
    """How a contrast is tested."""
    first, second, key = contrast
    a, b = contrast.first_score, contrast.second_score
    if a.sd or b.sd:
        if min(a.seeds, b.seeds) == 1:
            return "one training against several (t)"
        equal = a.seeds == b.seeds
        return WELCH if equal else "training seeds (Behrens-Fisher)"
    drawn = asked([columns.of(first, key), columns.of(second, key)])
    return "intervals" if drawn is None else "paired by prompt"


def _welch(contrasts: Sequence[Contrast]) -> list[Outcome]:
    """Welch's t over training seeds, one call of scipy for all contrasts of one shape."""
    from scipy.stats import ttest_ind

    def answered(chosen: Sequence[Contrast]) -> list[Outcome]:
        a = np.stack([c.first.seed_values(c.key) for c in chosen])
        b = np.stack([c.second.seed_values(c.key) for c in chosen])
        with warnings.catch_warnings():
            # Seeds that agree to the last digit are no loss of precision; the other group has
            # the spread.
            warnings.filterwarnings("ignore", "Precision loss occurred", RuntimeWarning)
            result = ttest_ind(a, b, axis=1, equal_var=False)
        interval = result.confidence_interval(0.95)
        gaps = a.mean(axis=1) - b.mean(axis=1)
        return _outcomes(gaps, interval.low, interval.high, result.pvalue, WELCH)

    return _in_batches(contrasts, lambda c: c.first_score.seeds, lambda _: answered)


def _behrens_fisher(contrasts: Sequence[Contrast]) -> list[Outcome]:
    """Means over unequal numbers of training seeds, each with its own spread."""

    def errors(c: Contrast) -> tuple[float, float, int, int]:
        a, b = c.first_score, c.second_score
        return (
            (a.sd or 0.0) / a.seeds**0.5,
            (b.sd or 0.0) / b.seeds**0.5,
            a.seeds - 1,
            b.seeds - 1,
        )

    return _by_errors(contrasts, errors, "training seeds (Behrens-Fisher)")


def _one_against_several(contrasts: Sequence[Contrast]) -> list[Outcome]:
    """One training against several: as if it were one more of them, sd from the several alone.

    Source: Crawford & Howell (1998), "Comparing an individual's test score against norms derived
    from small samples".
    """
    from scipy.special import stdtr, stdtrit

    scores = [(c.first_score, c.second_score) for c in contrasts]
    several = [a if a.seeds > 1 else b for a, b in scores]
    gaps = np.array([a.value - b.value for a, b in scores])
    errors = np.array([(s.sd or 0.0) * (1 + 1 / s.seeds) ** 0.5 for s in several])
    df = np.array([s.seeds - 1 for s in several])
    half = stdtrit(df, 0.975) * errors
    p_values = 2 * stdtr(df, -np.abs(gaps) / errors)
    return _outcomes(gaps, gaps - half, gaps + half, p_values, "one training against several (t)")


def _intervals(contrasts: Sequence[Contrast]) -> list[Outcome]:
    """Two trained models apart by the standard errors behind their own intervals."""

    def errors(c: Contrast) -> tuple[float, float, int, int]:
        first, first_df = c.first.sampling_error(c.key)
        second, second_df = c.second.sampling_error(c.key)
        return first, second, first_df, second_df

    return _by_errors(contrasts, errors, "intervals")


def _paired(contrasts: Sequence[Contrast], columns: PromptColumns, family: int) -> list[Outcome]:
    """Differences over the prompts that both drew with the same seeds.

    The interval is a paired bootstrap's, the p-value a sign-flip permutation test's; both take
    prompts whole, and draw them once for all contrasts over the same ones.
    """

    def both(c: Contrast) -> tuple[PromptColumn, PromptColumn]:
        a, b = columns.of(c.first, c.key), columns.of(c.second, c.key)
        assert a is not None and b is not None
        return a, b

    def prompts(c: Contrast) -> tuple[int, bytes]:
        pair = both(c)
        held = asked(pair)
        assert held is not None
        return id(pair[0].drawn), np.packbits(held).tobytes()

    def answered(chosen: Sequence[Contrast]) -> list[Outcome]:
        return _over_prompts([both(c) for c in chosen], family)

    return _in_batches(contrasts, prompts, lambda _: answered)


def _over_prompts(both: Sequence[tuple[PromptColumn, PromptColumn]], family: int) -> list[Outcome]:
    """Pairs of columns with values on the same images, in a family of so many tests.

    Pairs that are sure to be told apart come first in Holm's order, so that the sign patterns of
    the others must only survive a correction over the rest.
    """
    held = asked(both[0])
    assert held is not None
    used = list({id(column): column for pair in both for column in pair}.values())
    place = {id(column): at for at, column in enumerate(used)}
    pairs = np.array([[place[id(a)], place[id(b)]] for a, b in both])
    table = prompt_sums(used, held)
    p_values = sign_flip_p_values(table, pairs)
    sure = int((p_values < 1 / (FLIPS_A_TEST * family)).sum())
    flips, small = FLIPS_A_TEST * (family - sure), np.flatnonzero(p_values < FEW_FLIPS)
    if len(small):
        flips = max(flips, PERMUTATIONS)
        p_values[small] = sign_flip_p_values(table, pairs[small], permutations=flips)
    means = resampled_means(table)
    gaps = table.means[pairs[:, 0]] - table.means[pairs[:, 1]]
    ends = [np.quantile(means[:, a] - means[:, b], [0.025, 0.975]) for a, b in pairs]
    low, high = np.transpose(ends)
    return _outcomes(gaps, low, high, p_values, "paired by prompt")


def _by_errors(
    contrasts: Sequence[Contrast],
    errors: Callable[[Contrast], tuple[float, float, int, int]],
    method: Method,
) -> list[Outcome]:
    """Behrens-Fisher tests of standard errors and degrees of freedom, one call for equal ones."""

    def answered(chosen: Sequence[Contrast]) -> list[Outcome]:
        first, second, first_df, second_df = zip(*map(errors, chosen), strict=True)
        gaps = np.array([c.first_score.value - c.second_score.value for c in chosen])
        spread = (np.array(first), np.array(second), first_df[0], second_df[0])
        half = behrens_fisher_half_widths(*spread)
        p_values = behrens_fisher_p_values(gaps, *spread)
        return _outcomes(gaps, gaps - half, gaps + half, p_values, method)

    return _in_batches(contrasts, lambda c: errors(c)[2:], lambda _: answered)


def _in_batches(
    contrasts: Sequence[Contrast],
    kind: Callable[[Contrast], Hashable],
    test_of: Callable[[Hashable], Tests],
) -> list[Outcome]:
    """Answers the contrasts of each kind together, by the kind's test."""
    batches: dict[Hashable, list[int]] = {}
    for position, contrast in enumerate(contrasts):
        batches.setdefault(kind(contrast), []).append(position)
    found: dict[int, Outcome] = {}
    for name, positions in batches.items():
        answers = test_of(name)([contrasts[position] for position in positions])
        found |= dict(zip(positions, answers, strict=True))
    return [found[position] for position in range(len(contrasts))]


def _outcomes(
    gaps: np.ndarray, low: np.ndarray, high: np.ndarray, p_values: np.ndarray, method: Method
) -> list[Outcome]:
    rows = zip(gaps, low, high, p_values, strict=True)
    return [Outcome(float(g), float(a), float(b), float(p), method) for g, a, b, p in rows]
