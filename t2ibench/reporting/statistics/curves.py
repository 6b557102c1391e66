"""Curves of a row: the knob's front, distance by number of images, accuracy by objects.

Each point is a mean over those of the row's runs, at a place that all of them measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from t2ibench.core.types import Score
from t2ibench.evaluation.results import OperatingPoint, metrics_of
from t2ibench.metrics.extrapolation import SizePoint
from t2ibench.reporting.statistics.groups import Group, GroupScore, aggregate
from t2ibench.reporting.statistics.metrics import metric_of

EXACT = "grader_exact"
"""The score that the atomicity curve splits by the number of objects."""

Place = TypeVar("Place", bound=Hashable)
Point = TypeVar("Point")


@dataclass(frozen=True)
class FrontPoint:
    """One setting of the knobs and a row's scores there.

    Attributes:
        value: of the fidelity-alignment knob.
        knobs: complete knob values.
        scores: score key -> mean over runs.
    """

    value: float | None
    knobs: dict[str, float]
    scores: dict[str, GroupScore]


@dataclass(frozen=True)
class ObjectsPoint:
    """Share of images in which everything is right, of those that ask for so many objects.

    Attributes:
        objects: number of objects in the caption.
        score: the share, from 0 to 1, with its interval.
        n: number of images, of all runs.
    """

    objects: int
    score: GroupScore
    n: int


def knob_front(group: Group) -> list[FrontPoint]:
    """The sweep over the knob, in the order of the first run's."""
    fronts = [run.scores.front for run in group.runs if run.scores.front]
    return [
        FrontPoint(points[0].value, points[0].knobs, _mean_scores(points))
        for points in _shared([[(_setting(p), p) for p in front] for front in fronts])
    ]


def size_curves(group: Group) -> dict[str, list[SizePoint]]:
    """Key of a Fréchet distance -> its curve, from few images to all.

    A point's value is the mean over runs, its standard deviation over subsets their root mean
    square.
    """
    measured = [run.scores.size_curves for run in group.runs]
    return {
        key: [
            SizePoint(
                int(points[0]["n"]),
                float(np.mean([point["value"] for point in points])),
                float(np.sqrt(np.mean([point["sd"] ** 2 for point in points]))),
            )
            for points in _shared(
                [
                    [(point["n"], point) for point in by_key[key]]
                    for by_key in measured
                    if key in by_key
                ]
            )
        ]
        for key in dict.fromkeys(key for by_key in measured for key in by_key)
    }


def atomicity_curves(group: Group) -> dict[str, list[ObjectsPoint]]:
    """Key of the exact grade -> its curve, from few objects to many.

    Several runs: the mean with the interval over training seeds, as of every score; one: its own
    interval over prompts.
    """
    by_key: dict[str, list[list[tuple[int, Score]]]] = {}
    for run in group.runs:
        keys = (key for key in run.scores.chosen.scores if metric_of(key).name == EXACT)
        if run.scores.atomicity and (key := next(keys, None)) is not None:
            points = [
                (
                    int(p["objects"]),
                    Score(p["value"], int(p["n"]), p["ci_low"], p["ci_high"], key),
                )
                for p in run.scores.atomicity
            ]
            by_key.setdefault(key, []).append(points)
    return {
        key: [
            ObjectsPoint(objects, aggregate(scores), sum(score.n for score in scores))
            for objects, scores in zip(_places(curves), _shared(curves), strict=True)
        ]
        for key, curves in by_key.items()
    }


def _setting(point: OperatingPoint) -> tuple[float | None, tuple[tuple[str, float], ...]]:
    """What tells an operating point from the others of its sweep."""
    return point.value, tuple(sorted(point.knobs.items()))


def _mean_scores(points: Sequence[OperatingPoint]) -> dict[str, GroupScore]:
    """Means of the scores that every run has."""
    return {
        key: aggregate([point.scores[key] for point in points])
        for key in metrics_of(point.scores for point in points)
        if all(key in point.scores for point in points)
    }


def _places(curves: Sequence[Iterable[tuple[Place, Point]]]) -> list[Place]:
    """Places that all curves have, in the order of the first."""
    count = Counter(place for curve in curves for place in dict(curve))
    return [place for place in dict(curves[0]) if count[place] == len(curves)] if curves else []


def _shared(curves: Sequence[Sequence[tuple[Place, Point]]]) -> list[list[Point]]:
    """The points of all curves at each place that all of them have."""
    tables = [dict(curve) for curve in curves]
    return [[table[place] for table in tables] for place in _places(curves)]
