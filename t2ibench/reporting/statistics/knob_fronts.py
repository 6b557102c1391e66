"""Fronts of quality against alignment, as each model's knob is turned on validation prompts.

A row of several training seeds has the mean of their fronts. Fronts are compared by the area that
they dominate and, at equal alignment, by their distance.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from t2ibench.metrics.inference import at_equal, hypervolume
from t2ibench.reporting.statistics.curves import knob_front
from t2ibench.reporting.statistics.leaderboard import Leaderboard
from t2ibench.reporting.statistics.metrics import ALIGNMENT, QUALITY, first_key, metric_of

Points = Sequence[tuple[float, float]]
"""(alignment, distance) of each operating point."""


@dataclass(frozen=True)
class KnobFronts:
    """Fronts of all models in one pair of scores.

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


def front_axes(keys: Sequence[str]) -> list[tuple[str, str]]:
    """The main distance against two alignments, then precision against recall."""
    quality = first_key(keys, QUALITY)
    alignments = [found for name in ALIGNMENT if (found := first_key(keys, (name,))) is not None]
    axes = [(key, quality) for key in alignments[:2] if quality is not None]
    recall, precision = first_key(keys, ("recall",)), first_key(keys, ("precision",))
    return axes + ([(recall, precision)] if recall is not None and precision is not None else [])


def knob_fronts(leaderboard: Leaderboard) -> list[KnobFronts]:
    """Sums the fronts up, once a pair of a distance and an alignment that any front has."""
    fronts = {group.label: knob_front(group) for group in leaderboard.groups}
    keys = list(dict.fromkeys(key for ps in fronts.values() for p in ps for key in p.scores))
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
            found.append(_summed_up(drawn, x_key, y_key))
    return found


def _summed_up(fronts: Mapping[str, Points], x_key: str, y_key: str) -> KnobFronts:
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
    return KnobFronts(x_key, y_key, worst, volumes, gaps)
