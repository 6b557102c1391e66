"""Rows of the leaderboard: runs that differ only in their seed, and a cell of each score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from t2ibench.core.errors import RunError
from t2ibench.core.types import Score
from t2ibench.report.folders import ReportRun
from t2ibench.report.holes import Hole

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
        sd: standard deviation over training seeds; None with one.
    """

    value: float
    low: float
    high: float
    seeds: int
    basis: Basis
    note: str = ""
    sd: float | None = None


@dataclass(frozen=True)
class Group:
    """Runs that differ only in the training seed.

    Attributes:
        label: unique display name.
        runs: at least one, ordered by seed.
        holes: its runs without scores.
        planned: how many training seeds it should have: its own with its holes, and no fewer
            than any other row has.
    """

    label: str
    runs: tuple[ReportRun, ...]
    holes: tuple[Hole, ...] = ()
    planned: int = 1

    @property
    def family(self) -> str:
        """The runs' family."""
        return self.runs[0].family

    @property
    def seeds(self) -> int:
        """How many training seeds are scored."""
        return len(self.runs)

    @property
    def seeds_text(self) -> str:
        """``1 seed``, ``3 seeds``, or ``2 of 3 seeds`` where some are lacking."""
        return seeds_text(self.seeds, self.planned)

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
        return None if own is None else own + (self.cost("parts_flops") or 0.0)

    @property
    def flops_by_part(self) -> dict[str, float]:
        """``training_flops`` by part, the largest first; empty where it was not counted so."""
        told = self.runs[0].scores.cost
        parts = dict(told.get("train_flops_by_part") or {})
        if parts and told.get("parts_flops"):
            parts["stage 1"] = told["parts_flops"]
        return dict(sorted(parts.items(), key=lambda part: -part[1]))

    @property
    def training_seconds(self) -> float | None:
        """Of the generator and its first stage together."""
        own = self.cost("train_seconds")
        return None if own is None else own + (self.cost("parts_seconds") or 0.0)


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
    sd, mean = float(values.std(ddof=1)), float(values.mean())
    half = t_quantile(len(values) - 1) * sd / len(values) ** 0.5
    return Cell(mean, mean - half, mean + half, len(values), "training seeds", notes, sd)


def seeds_text(count: int, planned: int = 0) -> str:
    """``1 seed``, ``3 seeds`` or ``2 of 3 seeds``."""
    of = f"{count} of {planned}" if count < planned else str(count)
    return f"{of} seed{'s' if max(count, planned) != 1 else ''}"


def t_quantile(degrees: float, level: float = 0.975) -> float:
    """Student's t quantile."""
    from scipy.stats import t

    return float(t.ppf(level, degrees))


def group_runs(runs: Sequence[ReportRun], holes: Sequence[Hole] = ()) -> list[Group]:
    """Runs by everything but their seed, with unique labels, in order of first appearance."""
    by_key: dict[str, list[ReportRun]] = {}
    for run in runs:
        by_key.setdefault(run.group_key, []).append(run)
    members = [sorted(g, key=lambda r: str(r.scores.model["seed"])) for g in by_key.values()]
    labels = _labels([group[0] for group in members])
    own = [tuple(hole for hole in holes if hole.belongs_to(group[0])) for group in members]
    most = max(
        (len(g) + len(h) for g, h in zip(members, own, strict=True) if g[0].family != EXTERNAL),
        default=1,
    )
    return [
        Group(label, tuple(group), lack, 1 if group[0].family == EXTERNAL else most)
        for label, group, lack in zip(labels, members, own, strict=True)
    ]


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
