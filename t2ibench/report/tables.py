"""The leaderboard: runs that differ only in their seed become one row with its interval.

Each column holds one score key and nothing else, so numbers measured in different ways
never stand under one heading.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from t2ibench.core.errors import RunError
from t2ibench.core.types import Score
from t2ibench.evaluation.results import Scores, metrics_of
from t2ibench.report.columns import MAIN, Metric, in_order, instrument_of, metric_of
from t2ibench.report.folders import ReportRun

Basis = Literal["training seeds", "samples"]

EXTERNAL = "external"
"""Family of scored images that no run of ours made: a band of its own, below the models."""


@dataclass(frozen=True)
class Cell:
    """One number of the leaderboard.

    Attributes:
        value: a score, or the mean over training seeds.
        low: lower end of the 95% interval.
        high: upper end.
        seeds: how many training seeds it rests on.
        basis: over what the interval generalises.
        note: what a reader must know.
    """

    value: float
    low: float
    high: float
    seeds: int
    basis: Basis
    note: str = ""

    @property
    def seeds_text(self) -> str:
        """``1 seed`` or ``3 seeds``."""
        return f"{self.seeds} seed{'s' if self.seeds != 1 else ''}"


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the training seed.

    Attributes:
        label: unique display name.
        runs: at least one, ordered by seed.
    """

    label: str
    runs: tuple[ReportRun, ...]

    @property
    def family(self) -> str:
        """The runs' family."""
        return self.runs[0].family

    @property
    def seeds(self) -> int:
        """How many training seeds."""
        return len(self.runs)

    def cell(self, key: str) -> Cell | None:
        """The cell of a score key: None where no run has it."""
        return aggregate(
            [r.scores.chosen.scores[key] for r in self.runs if key in r.scores.chosen.scores]
        )

    def cost(self, name: str) -> float | None:
        """Mean over runs of a number in ``cost``; None where absent."""
        found = [run.scores.cost.get(name) for run in self.runs]
        numbers = [float(value) for value in found if isinstance(value, (int, float))]
        return float(np.mean(numbers)) if numbers else None

    @property
    def parameters(self) -> float | None:
        """Parameters of all parts."""
        parts = self.runs[0].scores.cost.get("parameters") or {}
        return float(sum(parts.values())) if parts else None

    @property
    def training_flops(self) -> float | None:
        """Of the generator and its first stage together."""
        own = self.cost("train_flops")
        return None if own is None else own + (self.cost("first_stage_flops") or 0.0)

    @property
    def training_seconds(self) -> float | None:
        """Of the generator and its first stage together."""
        own = self.cost("train_seconds")
        return None if own is None else own + (self.cost("first_stage_seconds") or 0.0)


@dataclass(frozen=True)
class Column:
    """One score key of the leaderboard.

    Attributes:
        key: the whole key, for the footnote.
        metric: how it is printed.
        instrument: the network or grader that measured it.
        like: a value whose decimals all of the column are printed with.
    """

    key: str
    metric: Metric
    instrument: str
    like: float

    def text(self, value: float) -> str:
        """The printed number."""
        return self.metric.text(value, self.like)


@dataclass(frozen=True)
class ReferenceRow:
    """A row that is no model: a floor, a ceiling or the ground truth.

    Attributes:
        label: what it is.
        meaning: one sentence.
        scores: score key -> score.
    """

    label: str
    meaning: str
    scores: Scores

    def cell(self, key: str) -> Cell | None:
        """The cell of a score key."""
        return aggregate([self.scores[key]]) if key in self.scores else None


@dataclass(frozen=True)
class Leaderboard:
    """Everything the tables print.

    Attributes:
        groups: model rows, the best on the first column first.
        columns: of the main table.
        references: floor, ceilings, ground truth.
        all_keys: every score key, for the CSV.
        facts: data set, protocol and budget when all runs share them.
    """

    groups: tuple[Group, ...]
    columns: tuple[Column, ...]
    references: tuple[ReferenceRow, ...]
    all_keys: tuple[str, ...]
    facts: dict[str, Any] = field(default_factory=dict)

    def leaders(self, column: Column) -> frozenset[str]:
        """Labels of the best group and of those whose interval reaches its value's interval."""
        cells = {group.label: group.cell(column.key) for group in self.groups}
        known = {label: cell for label, cell in cells.items() if cell is not None}
        if not known:
            return frozenset()
        sign = 1 if column.metric.better == "higher" else -1
        best = max(known.values(), key=lambda cell: sign * cell.value)
        return frozenset(
            label
            for label, cell in known.items()
            if cell.low <= best.high and cell.high >= best.low
        )


def aggregate(scores: Sequence[Score]) -> Cell | None:
    """Several training seeds to one cell.

    k >= 2 seeds: mean +- t(0.975, k - 1) sd / sqrt(k), which says how another training would
    come out. One seed: the score's own interval, which says only how other samples of the
    same weights would.

    Args:
        scores: one a training seed, all with one key.

    Raises:
        RunError: the scores have different keys.
    """
    if not scores:
        return None
    if len({score.key for score in scores}) > 1:
        raise RunError(
            f"scores measured in different ways ({', '.join(sorted({s.key for s in scores}))}) "
            "cannot be averaged; score the runs with one protocol and evaluator."
        )
    notes = "; ".join(dict.fromkeys(score.note for score in scores if score.note))
    if len(scores) == 1:
        (score,) = scores
        return Cell(score.value, score.ci_low, score.ci_high, 1, "samples", notes)
    values = np.array([score.value for score in scores])
    half = t_quantile(len(values) - 1) * values.std(ddof=1) / len(values) ** 0.5
    mean = float(values.mean())
    return Cell(mean, mean - float(half), mean + float(half), len(values), "training seeds", notes)


def t_quantile(degrees: float, level: float = 0.975) -> float:
    """Student's t quantile."""
    from scipy.stats import t

    return float(t.ppf(level, degrees))


def group_runs(runs: Sequence[ReportRun]) -> list[Group]:
    """Runs by everything but their seed, with unique labels, in order of first appearance."""
    by_key: dict[str, list[ReportRun]] = {}
    for run in runs:
        by_key.setdefault(run.group_key, []).append(run)
    members = [sorted(g, key=lambda r: str(r.scores.model["seed"])) for g in by_key.values()]
    labels = _labels([group[0] for group in members])
    return [Group(label, tuple(group)) for label, group in zip(labels, members, strict=True)]


def leaderboard(runs: Sequence[ReportRun]) -> Leaderboard:
    """Builds the tables' content from runs.

    Raises:
        RunError: no runs.
    """
    if not runs:
        raise RunError("a leaderboard needs at least one scored run.")
    groups = group_runs(runs)
    scores = [run.scores.chosen.scores for run in runs]
    keys = in_order(metrics_of(scores))
    main = [key for key in keys if metric_of(key).name in MAIN]
    columns = tuple(_column(key, groups) for key in main)
    if columns:
        # Foreign images stand below: nobody knows their data, budget and seeds.
        groups.sort(key=lambda group: (group.family == EXTERNAL, *_rank(group, columns[0])))
    return Leaderboard(
        tuple(groups), columns, tuple(_references(groups)), tuple(keys), _shared_facts(runs)
    )


def _column(key: str, groups: Sequence[Group]) -> Column:
    """A column; its smallest model score decides the decimals."""
    values = [abs(cell.value) for group in groups if (cell := group.cell(key)) is not None]
    return Column(key, metric_of(key), instrument_of(key), min(values))


def _rank(group: Group, column: Column) -> tuple[bool, float]:
    cell = group.cell(column.key)
    if cell is None:
        return (True, 0.0)
    return (False, cell.value if column.metric.better == "lower" else -cell.value)


def _references(groups: Sequence[Group]) -> list[ReferenceRow]:
    """Shared floors and ground truths once, each group's own ceiling by name."""
    rows: list[ReferenceRow] = []
    floor = _merged(groups, "floor")
    if floor:
        meaning = "Other real images of the same number: what a perfect model would score."
        rows.append(ReferenceRow("Real vs real", meaning, floor))
    for group in groups:
        ceiling = group.runs[0].scores.reference.get("ceiling")
        if ceiling:
            meaning = "Real images through its first stage and back: what it cannot beat."
            rows.append(ReferenceRow(f"First stage of {group.label}", meaning, ceiling))
    truth = _merged(groups, "ground_truth")
    if truth:
        meaning = "The real images of the prompts: what the instruments say of the truth."
        rows.append(ReferenceRow("Real images", meaning, truth))
    return rows


def _merged(groups: Sequence[Group], name: str) -> Scores:
    """A reference that runs share; keys tell different ones apart."""
    merged: Scores = {}
    for group in groups:
        for run in group.runs:
            merged |= run.scores.reference.get(name, {})
    return merged


def _labels(runs: Sequence[ReportRun]) -> list[str]:
    """Model names; where several groups share one, what differs in their models is added."""
    labels = []
    for run in runs:
        twins = [other for other in runs if other.name == run.name]
        fields = [f for f in run.scores.model if f not in ("name", "seed", "run", "family")]
        differing = [
            f"{name}={run.scores.model[name]}"
            for name in fields
            if len({str(twin.scores.model.get(name)) for twin in twins}) > 1
        ]
        differing += [EXTERNAL] if run.family == EXTERNAL else []
        labels.append(f"{run.name} ({', '.join(differing)})" if differing else run.name)
    for position, label in enumerate(labels):
        if labels.count(label) > 1:
            labels[position] = f"{label} [{runs[position].path.name.rsplit('-', 1)[-1]}]"
    return labels


def _shared_facts(runs: Sequence[ReportRun]) -> dict[str, Any]:
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
