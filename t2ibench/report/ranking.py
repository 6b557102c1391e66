"""How sure the order of the leaderboard is, and what whole fronts say.

Rank probabilities ask: in another world (other trainings, or other prompts where there is one
training each), how often would each model come first? Fronts are compared by the area they
dominate and, at equal alignment, by their distance.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Literal

import numpy as np

from t2ibench.evaluation.results import metrics_of
from t2ibench.metrics.bootstrap import NORMAL_95
from t2ibench.metrics.inference import (
    at_equal,
    hypervolume,
    rank_probabilities,
    resampled_group_means,
    resampled_prompt_means,
)
from t2ibench.report.columns import instrument_of, metric_of
from t2ibench.report.compare import seed_values
from t2ibench.report.groups import Group
from t2ibench.report.plots import front_axes
from t2ibench.report.tables import Column, Leaderboard

Basis = Literal["training seeds", "prompts", "samples"]

WORLDS = 4000


@dataclass(frozen=True)
class Ranking:
    """The order of the models on one score.

    Attributes:
        key: score key.
        basis: what another world has new: trainings (every model has several), prompts (the same
            for all), or samples (a distance, by its own interval).
        probabilities: label -> probability of each rank, the best first.
    """

    key: str
    basis: Basis
    probabilities: dict[str, tuple[float, ...]]

    def best(self, label: str) -> float | None:
        """Probability of being the best; None where the model has no such score."""
        found = self.probabilities.get(label)
        return None if found is None else found[0]


@dataclass(frozen=True)
class FrontSummary:
    """Fronts of all models in one pair of scores, on validation prompts.

    Attributes:
        x_key: alignment, drawn to the right.
        y_key: distance.
        reference: the worst (x, y) of all points: no front dominates beyond it.
        volumes: label -> dominated share of the box between the reference and the best x and y
            of any model, in [0, 1].
        gaps: (first, second, mean of first - second in the lowest y with at least a given x,
            lowest x, highest x).
    """

    x_key: str
    y_key: str
    reference: tuple[float, float]
    volumes: dict[str, float]
    gaps: tuple[tuple[str, str, float, float, float], ...]


def rankings(board: Leaderboard) -> list[Ranking]:
    """One a column that at least two models have."""
    found = []
    for column in board.columns:
        groups = [group for group in board.groups if group.cell(column.key) is not None]
        if len(groups) > 1:
            basis, worlds = _worlds(groups, column)
            sign = 1.0 if column.metric.better == "lower" else -1.0
            shares = rank_probabilities(sign * worlds)
            ranks = (tuple(float(share) for share in row) for row in shares)
            labels = (group.label for group in groups)
            found.append(Ranking(column.key, basis, dict(zip(labels, ranks, strict=True))))
    return found


def _worlds(groups: Sequence[Group], column: Column) -> tuple[Basis, np.ndarray]:
    """(R, K) scores of every model in R worlds."""
    key = column.key
    values = [seed_values(group, key) for group in groups]
    if min(len(v) for v in values) > 1:
        return "training seeds", resampled_group_means(values, WORLDS)
    tables = [group.runs[0].image_values() for group in groups]
    known = [t for t in tables if t is not None and key in t.columns]
    if len(known) == len(groups) and len({(t.keys, t.seeds) for t in known}) == 1:
        asked = ~np.isnan(np.stack([t.columns[key] for t in known])).any(0)
        if asked.any():
            clusters = [k for k, keep in zip(known[0].keys, asked, strict=True) if keep]
            columns = [t.columns[key][asked] for t in known]
            return "prompts", resampled_prompt_means(columns, clusters, WORLDS // 2)
    rng = np.random.default_rng(0)
    cells = [group.cell(key) for group in groups]
    drawn = [
        cell.value + (cell.high - cell.low) / (2 * NORMAL_95) * rng.standard_normal(WORLDS)
        for cell in cells
        if cell is not None
    ]
    return "samples", np.stack(drawn, axis=1)


def front_summaries(board: Leaderboard) -> list[FrontSummary]:
    """One a pair of a distance and an alignment that at least one front has."""
    fronts = {g.label: g.runs[0].scores.front for g in board.groups if g.runs[0].scores.front}
    keys = metrics_of(point.scores for points in fronts.values() for point in points)
    found = []
    for x_key, y_key in front_axes(keys):
        if metric_of(x_key).better != "higher" or metric_of(y_key).better != "lower":
            continue
        drawn = {
            label: [
                (p.scores[x_key].value, p.scores[y_key].value)
                for p in points
                if x_key in p.scores and y_key in p.scores
            ]
            for label, points in fronts.items()
        }
        drawn = {label: points for label, points in drawn.items() if points}
        if drawn:
            found.append(_summary(drawn, x_key, y_key))
    return found


def _summary(fronts: dict[str, list[tuple[float, float]]], x_key: str, y_key: str) -> FrontSummary:
    everything = [point for points in fronts.values() for point in points]
    worst = (min(x for x, _ in everything), max(y for _, y in everything))
    best = (max(x for x, _ in everything), min(y for _, y in everything))
    box = (best[0] - worst[0]) * (worst[1] - best[1])
    volumes = {
        label: hypervolume([(-x, y) for x, y in points], (-worst[0], worst[1])) / box
        if box
        else 0.0
        for label, points in fronts.items()
    }
    gaps = tuple(
        (first, second, *at_equal(fronts[first], fronts[second]))
        for first, second in combinations(fronts, 2)
    )
    return FrontSummary(x_key, y_key, worst, volumes, gaps)


def best_table(found: Sequence[Ranking], board: Leaderboard) -> list[list[str]]:
    """Heading, then a row a model: the probability of being the best on each score."""
    head = ["Model", *(f"{_title(r.key)} ({r.basis})" for r in found)]
    rows = [
        [group.label, *(_percent(ranking.best(group.label)) for ranking in found)]
        for group in board.groups
    ]
    return [head, *rows] if found else []


def front_table(found: Sequence[FrontSummary]) -> list[list[str]]:
    """Heading, then a row a model: the share of the box that its front dominates."""
    labels = list(dict.fromkeys(label for summary in found for label in summary.volumes))
    head = ["Model", *(f"{_title(s.y_key)}, {_title(s.x_key)}" for s in found)]
    rows = [[label, *(_percent(s.volumes.get(label)) for s in found)] for label in labels]
    return [head, *rows] if found else []


def front_sentences(found: Sequence[FrontSummary]) -> list[str]:
    """What each pair of fronts says at equal alignment."""
    said = []
    for summary in found:
        x, y = metric_of(summary.x_key), metric_of(summary.y_key)
        for first, second, gap, low, high in summary.gaps:
            better, other = (first, second) if gap < 0 else (second, first)
            reach = x.text(high) if low == high else f"{x.text(low)} to {x.text(high)}"
            said.append(
                f"At equal {x.title} (at least {reach}), the {y.title} of {better} is lower than "
                f"that of {other} by {y.text(abs(gap))} in the mean."
            )
    return said


def _title(key: str) -> str:
    return f"{metric_of(key).title} {instrument_of(key)}"


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.0f} %"
