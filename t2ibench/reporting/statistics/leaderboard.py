"""The leaderboard: groups of runs from the best to the worst, floors and ceilings below them.

Scores stand under their whole keys, so numbers measured in different ways never meet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from t2ibench.core.errors import RunError, ScoreError
from t2ibench.evaluation.results import Scores, metrics_of
from t2ibench.reporting.read.missing import MissingRun
from t2ibench.reporting.read.runs import EXTERNAL, ScoredRun
from t2ibench.reporting.read.where import check_named
from t2ibench.reporting.statistics.groups import Group, GroupScore, aggregate, group_runs
from t2ibench.reporting.statistics.keys import check_shared, keys_of, shared_keys
from t2ibench.reporting.statistics.metrics import MAIN, QUALITY, in_order, metric_of

DISJOINT_FLOOR = (
    "Real images that are not in the reference, those of the prompts themselves where there are "
    "as many: what a perfect model scores in the mean."
)
SHARED_FLOOR = (
    "Real images of other prompts, as many. The reference holds the prompts' own images, so a "
    "model that follows its prompts can score below this."
)

ROUNDING = 0.01
"""Share of its interval by which one measurement may differ between machines."""


@dataclass(frozen=True)
class Reference:
    """A row that is no model: a floor, a ceiling or the ground truth.

    Attributes:
        kind: its name in ``RunScores.reference``.
        label: what it is.
        meaning: one sentence.
        scores: score key -> score; of first stages that differ between training seeds, their mean.
    """

    kind: Literal["floor", "ceiling", "ground_truth"]
    label: str
    meaning: str
    scores: dict[str, GroupScore]

    def score(self, key: str) -> GroupScore | None:
        """The score under a key; None where it was not measured."""
        return self.scores.get(key)


@dataclass(frozen=True)
class Leaderboard:
    """The rows and columns of a comparison.

    Attributes:
        groups: model rows, the best on the first key first.
        references: floor, ceilings, ground truth.
        keys: score keys of the main table.
        all_keys: every score key.
        facts: data set, protocol, budget and hardware, where all runs share them.
        by: the fact or setting whose values are the sections of the rows; empty: no sections.
        unplaced: runs without scores that belong to no row.
    """

    groups: tuple[Group, ...]
    references: tuple[Reference, ...]
    keys: tuple[str, ...]
    all_keys: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)
    by: str = ""
    unplaced: tuple[MissingRun, ...] = ()

    @property
    def quality_key(self) -> str | None:
        """The main distance; the first key where there is none, None where there is no key."""
        distances = [key for key in self.keys if metric_of(key).name in QUALITY]
        return next(iter([*distances, *self.keys]), None)

    def floor(self, key: str) -> float | None:
        """Distance of real images; None where none was measured, or several that differ."""
        floors = [
            r.scores[key].value for r in self.references if r.kind == "floor" and key in r.scores
        ]
        return floors[0] if len(floors) == 1 else None

    def scores(self, key: str) -> dict[str, GroupScore]:
        """Label -> score of the groups that have the key, in the order of the rows."""
        return {g.label: score for g in self.groups if (score := g.score(key)) is not None}


def build_leaderboard(
    runs: Sequence[ScoredRun],
    missing: Sequence[MissingRun] = (),
    metrics: Sequence[str] = (),
    sort: str = "",
    by: str = "",
) -> Leaderboard:
    """Puts runs into rows and their scores into columns.

    Args:
        runs: the scored ones.
        missing: the others, which mark the rows they belong to.
        metrics: names or whole keys of the columns; none: ``MAIN``.
        sort: name or whole key of the score that orders the rows, or ``train_flops`` or another
            number of ``cost``; empty: the first column. A name is its one key that the most
            rows have, the first of several.
        by: fact or setting whose values become sections, that of the first row first.

    Raises:
        ConfigError: no run has ``by``.
        RunError: no runs.
        ScoreError: two groups share no score, or not one of ``metrics``; nobody has ``sort``.
    """
    if not runs:
        raise RunError("a leaderboard needs at least one scored run.")
    groups = group_runs(runs, missing)
    check_shared(groups)
    if metrics:
        keys = main = in_order([key for name in metrics for key in shared_keys(groups, name)])
    else:
        keys = in_order(metrics_of(run.scores.chosen.scores for run in runs))
        main = [key for key in keys if metric_of(key).name in MAIN]
    # External images stand below: nobody knows their data, budget and seeds.
    by_score = _sort_key(groups, sort) if sort else next(iter(main), "")
    places = {group.label: _place(group, by_score, sort) for group in groups}
    if sort and all(unknown for unknown, _ in places.values()):
        if any(group.cost(sort) is not None for group in groups):
            raise ScoreError(
                f"sort={sort} is marked busy in every row, and nothing is ranked by such a time; "
                "remove RUN/scores.json and run `t2ibench score RUN` on a quiet machine, which "
                "measures it again."
            )
        names = sorted({metric_of(key).name for key in keys})
        raise ScoreError(f"sort={sort} is measured of no row; choose {', '.join(names)}.")
    if sort or main:
        groups.sort(key=lambda group: (group.family == EXTERNAL, *places[group.label]))
    if by:
        check_named("by", by, runs)
        sections = list(dict.fromkeys(group.fact(by) for group in groups))
        groups.sort(key=lambda group: (not group.fact(by), sections.index(group.fact(by))))
    return Leaderboard(
        tuple(groups),
        tuple(_references(groups)),
        tuple(main),
        tuple(keys),
        _shared_facts(runs),
        by,
        tuple(run for run in missing if not any(run in group.missing for group in groups)),
    )


def _sort_key(groups: Sequence[Group], name: str) -> str:
    """The one key that a name stands for in every row; empty for a cost."""
    found = in_order([key for group in groups for key in keys_of(group, name)])
    return max(found, key=lambda key: sum(key in group.scores for group in groups), default="")


def _place(group: Group, key: str, cost: str) -> tuple[bool, float]:
    """A group's place by a score, or by a cost where there is no key; those without come last."""
    if key:
        score = group.score(key)
        return (True, 0.0) if score is None else (False, -metric_of(key).sign * score.value)
    spent = group.ranked_cost(cost)
    return (True, 0.0) if spent is None else (False, spent)


def _references(groups: Sequence[Group]) -> list[Reference]:
    """Shared floors and ground truths once, each ceiling by the groups that stand on it."""
    meaning = SHARED_FLOOR if _shared_reference(groups) else DISJOINT_FLOOR
    rows = _measured(groups, "floor", "Real vs real", meaning)
    for ceiling, labels in _ceilings(groups):
        more = f" and {len(labels) - 1} more" if len(labels) > 1 else ""
        meaning = (
            f"Real images through the first stage and back: what {', '.join(labels)} cannot beat."
        )
        rows.append(Reference("ceiling", f"First stage of {labels[0]}{more}", meaning, ceiling))
    meaning = "The real images of the prompts: what the instruments say of the truth."
    return rows + _measured(groups, "ground_truth", "Real images", meaning)


def _shared_reference(groups: Sequence[Group]) -> bool:
    """True where a protocol compares models with images of their own prompts."""
    protocols = [run.scores.protocol for group in groups for run in group.runs]
    return any(p.get("reference_records", "shared") != "disjoint" for p in protocols)


def _ceilings(groups: Sequence[Group]) -> list[tuple[dict[str, GroupScore], list[str]]]:
    """Each first stage's scores with the labels of the groups on it."""
    found: list[tuple[dict[str, GroupScore], list[str]]] = []
    for group in groups:
        ceiling = _ceiling(group)
        if not ceiling:
            continue
        labels = next((labels for scores, labels in found if scores == ceiling), None)
        if labels is None:
            found.append((ceiling, [group.label]))
        else:
            labels.append(group.label)
    return found


def _ceiling(group: Group) -> dict[str, GroupScore]:
    """What a group's first stage gives; the mean where each training seed has its own."""
    stages: list[Scores] = []
    for run in group.runs:
        measured = run.scores.reference.get("ceiling")
        if measured and measured not in stages:
            stages.append(measured)
    return {
        key: aggregate([scores[key] for scores in stages if key in scores])
        for key in metrics_of(stages)
    }


def _measured(
    groups: Sequence[Group], kind: Literal["floor", "ground_truth"], label: str, meaning: str
) -> list[Reference]:
    """A reference that runs share as one row; where runs measured it differently, a row for each.

    Keys tell references of other protocols and instruments apart, which join in one row. Under one
    key runs of one data set must agree: if they do not, their real images or software differ.
    """
    found: list[tuple[Scores, list[str]]] = []
    for group in groups:
        for scores in (run.scores.reference.get(kind) for run in group.runs):
            if not scores:
                continue
            own = next((row for row in found if _agree(row[0], scores)), None)
            if own is None:
                found.append((dict(scores), [group.label]))
                continue
            own[0].update({key: score for key, score in scores.items() if key not in own[0]})
            own[1].append(group.label)
    return [
        Reference(
            kind,
            f"{label} ({number})" if len(found) > 1 else label,
            f"{meaning} As scored with {', '.join(dict.fromkeys(labels))}, unlike the others."
            if len(found) > 1
            else meaning,
            {key: aggregate([score]) for key, score in scores.items()},
        )
        for number, (scores, labels) in enumerate(found, 1)
    ]


def _agree(first: Scores, second: Scores) -> bool:
    """True where two measurements differ by no more than rounding does on other hardware."""
    return all(
        abs(score.value - second[key].value) <= ROUNDING * (score.ci_high - score.ci_low)
        for key, score in first.items()
        if key in second
    )


def _shared_facts(runs: Sequence[ScoredRun]) -> dict[str, Any]:
    """Facts that all runs agree on; the others are left out."""
    described = [
        {
            "data": run.scores.model.get("data"),
            "text": run.scores.model.get("text"),
            "protocol": run.scores.protocol,
            "budget": run.scores.budget,
            "hardware": (run.scores.cost.get("hardware") or {}).get("device"),
        }
        for run in runs
    ]
    first = described[0]
    return {
        name: value
        for name, value in first.items()
        if value and all(d[name] == value for d in described)
    }
