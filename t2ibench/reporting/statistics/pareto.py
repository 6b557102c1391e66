"""Which models are worth their cost: none is at most as costly and better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from t2ibench.reporting.statistics.comparisons import Comparison
from t2ibench.reporting.statistics.leaderboard import Leaderboard
from t2ibench.reporting.statistics.metrics import metric_of

EQUAL_COST = 0.02
"""Costs that differ by less count as equal: budgets end on whole batches, clocks are noisy."""

COSTS = ("train_flops", "seconds_per_image_best")
"""Costs against which a front is drawn, first stage included."""


@dataclass(frozen=True)
class ParetoPoint:
    """One model on a front's plane.

    Attributes:
        label: the model.
        cost: its cost.
        value: its quality.
        dominated_by: models at most as costly and better in the mean.
        distinguishably: whether its quality is distinguishable from that of one of them.
    """

    label: str
    cost: float
    value: float
    dominated_by: tuple[str, ...]
    distinguishably: bool

    @property
    def on_front(self) -> bool:
        """Whether nothing is at most as costly and better."""
        return not self.dominated_by

    @property
    def standing(self) -> str:
        """``on the front``, ``not distinguishable from it`` or ``behind NAME``."""
        if self.on_front:
            return "on the front"
        if not self.distinguishably:
            return "not distinguishable from it"
        return f"behind {self.dominated_by[0]}"


@dataclass(frozen=True)
class ParetoFront:
    """Quality against one cost.

    Attributes:
        cost: its name in ``COSTS``.
        key: score key of the quality.
        points: the models that have both, the cheapest first.
    """

    cost: str
    key: str
    points: tuple[ParetoPoint, ...]


def pareto_fronts(leaderboard: Leaderboard, comparisons: Sequence[Comparison]) -> list[ParetoFront]:
    """Fronts of the main quality against each cost that at least two models have.

    Times of a busy machine are not compared.
    """
    key = leaderboard.quality_key
    if key is None:
        return []
    found = [_front(leaderboard, key, cost, comparisons) for cost in COSTS]
    return [front for front in found if len(front.points) > 1]


def _front(
    leaderboard: Leaderboard, key: str, cost: str, comparisons: Sequence[Comparison]
) -> ParetoFront:
    sign = metric_of(key).sign
    known = [
        (group.label, spent, score.value)
        for group in leaderboard.groups
        if (score := group.score(key)) is not None and (spent := group.ranked_cost(cost))
    ]
    distinguishable = {
        frozenset((pair.first, pair.second))
        for pair in comparisons
        for difference in pair.differences
        if difference.key == key and difference.distinguishable
    }
    points = []
    for label, spent, value in sorted(known, key=lambda point: point[1]):
        better = tuple(
            other
            for other, price, quality in known
            if (price <= spent * (1 + EQUAL_COST) and sign * quality > sign * value)
            or (price * (1 + EQUAL_COST) < spent and quality == value)
        )
        apart = any(frozenset((label, other)) in distinguishable for other in better)
        points.append(ParetoPoint(label, spent, value, better, apart))
    return ParetoFront(cost, key, tuple(points))
