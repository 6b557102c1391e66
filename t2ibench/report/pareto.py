"""Which models are worth their cost: none is at most as costly and better."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from t2ibench.report.compare import Comparison
from t2ibench.report.groups import Group
from t2ibench.report.plots import quality_column
from t2ibench.report.tables import Column, Leaderboard

EQUAL_COST = 0.02
"""Costs that differ by less count as equal: budgets end on whole batches, clocks are noisy."""

COSTS = {
    "train_flops": "Train FLOPs",
    "seconds_per_image_best": "Time/image",
}
"""Costs against which a front is drawn, first stage included: name -> title."""


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
        """Nothing is at most as costly and better."""
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

    def standing(self, label: str) -> str:
        """A model's standing, or a dash where its cost or quality is unknown."""
        return next((point.standing for point in self.points if point.label == label), "–")


def pareto_fronts(board: Leaderboard, comparisons: Sequence[Comparison]) -> list[ParetoFront]:
    """One a cost that at least two models have, against the leaderboard's main quality."""
    column = quality_column(board)
    if column is None:
        return []
    found = [_front(board, column, cost, comparisons) for cost in COSTS]
    return [front for front in found if len(front.points) > 1]


def cost_of(group: Group, cost: str) -> float | None:
    """A group's cost, the first stage's training included."""
    return group.training_flops if cost == "train_flops" else group.cost(cost)


def pareto_table(fronts: Sequence[ParetoFront], board: Leaderboard) -> list[list[str]]:
    """Heading, then a row a model: its standing against each cost."""
    if not fronts:
        return []
    rows = [[g.label, *(front.standing(g.label) for front in fronts)] for g in board.groups]
    return [["Model", *(COSTS[front.cost] for front in fronts)], *rows]


def to_dict(front: ParetoFront) -> dict[str, Any]:
    """A JSON-ready mapping."""
    points = [
        {
            "model": point.label,
            "cost": point.cost,
            "value": point.value,
            "on_front": point.on_front,
            "dominated_by": list(point.dominated_by),
            "distinguishably": point.distinguishably,
        }
        for point in front.points
    ]
    return {"cost": front.cost, "key": front.key, "points": points}


def _front(
    board: Leaderboard, column: Column, cost: str, comparisons: Sequence[Comparison]
) -> ParetoFront:
    sign = 1 if column.metric.better == "higher" else -1
    known = [
        (group.label, spent, cell.value)
        for group in board.groups
        if (cell := group.cell(column.key)) is not None and (spent := cost_of(group, cost))
    ]
    told_apart = {
        frozenset((pair.first, pair.second))
        for pair in comparisons
        for difference in pair.differences
        if difference.key == column.key and difference.distinguishable
    }
    points = []
    for label, spent, value in sorted(known, key=lambda point: point[1]):
        better = tuple(
            other
            for other, price, quality in known
            if (price <= spent * (1 + EQUAL_COST) and sign * quality > sign * value)
            or (price * (1 + EQUAL_COST) < spent and quality == value)
        )
        apart = any(frozenset((label, other)) in told_apart for other in better)
        points.append(ParetoPoint(label, spent, value, better, apart))
    return ParetoFront(cost, column.key, tuple(points))
