"""Rows of the leaderboard: runs that differ only in their seed, and the score of each."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np

from t2ibench.core.errors import RunError
from t2ibench.core.types import Score
from t2ibench.metrics.bootstrap import HALF_SAMPLES
from t2ibench.reporting.read.missing import MissingRun
from t2ibench.reporting.read.runs import DESCRIPTIVE, EXTERNAL, ScoredRun
from t2ibench.reporting.statistics.times import TIMES, Time, time_of

Basis = Literal["training seeds", "samples"]

FOLDS = re.compile(r"\|(\d+)-folds\]$")
"""Number of folds at the end of the key of a mean over them."""


@dataclass(frozen=True)
class GroupScore:
    """A score of a group.

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
        missing: its runs without scores.
        planned: how many training seeds it should have: its own with its missing ones, and no
            fewer than any other row has.
    """

    label: str
    runs: tuple[ScoredRun, ...]
    missing: tuple[MissingRun, ...] = ()
    planned: int = 1

    @property
    def family(self) -> str:
        """The runs' family."""
        return self.runs[0].family

    @property
    def origin(self) -> str:
        """``paper`` or ``own``; empty where no run says."""
        return next((run.origin for run in self.runs if run.origin), "")

    @property
    def given(self) -> tuple[str, ...]:
        """What any of its runs was given beyond captions and images."""
        return tuple(dict.fromkeys(phrase for run in self.runs for phrase in run.given))

    @property
    def seeds(self) -> int:
        """How many training seeds are scored."""
        return len(self.runs)

    @property
    def seeds_text(self) -> str:
        """``1 seed``, ``3 seeds``, or ``2 of 3 seeds`` where some are missing."""
        return seeds_text(self.seeds, self.planned)

    @cached_property
    def scores(self) -> dict[str, GroupScore]:
        """Each score key that any run has, in order of first appearance, with its score."""
        by_key: dict[str, list[Score]] = {}
        for run in self.runs:
            for key, score in run.scores.chosen.scores.items():
                by_key.setdefault(key, []).append(score)
        return {key: aggregate(scores) for key, scores in by_key.items()}

    def fact(self, name: str) -> str:
        """A fact or setting of its runs; empty where they have none."""
        values = dict.fromkeys(run.facts.get(name, "") for run in self.runs)
        return ", ".join(value for value in values if value)

    def score(self, key: str) -> GroupScore | None:
        """The score under a key; None where no run has it."""
        return self.scores.get(key)

    def seed_values(self, key: str) -> np.ndarray:
        """(S,) one value a training seed."""
        scored = [run.scores.chosen.scores for run in self.runs]
        return np.array([scores[key].value for scores in scored if key in scores])

    def sampling_error(self, key: str) -> tuple[float, int]:
        """Standard error and degrees of freedom of a score with other samples of these weights.

        A set statistic's interval rests on few half-samples and a mean's over folds on the folds,
        whose Student quantile it holds; another mean's on as many images as it has. Several runs:
        of their mean, spreads pooled.
        """
        from scipy.special import stdtrit

        found = [run.scores.chosen.scores for run in self.runs]
        scores = [by_key[key] for by_key in found if key in by_key]
        df = min(_replicates(score) - 1 for score in scores)
        quantile = float(stdtrit(df, 0.975))
        errors = [(score.ci_high - score.ci_low) / (2 * quantile) for score in scores]
        return float(np.linalg.norm(errors)) / len(errors), df * len(errors)

    def cost(self, name: str) -> float | None:
        """Mean over runs of a number in ``cost``; None where absent.

        A sampling time is the mean over runs whose machine was quiet, where there is one.
        """
        if name in TIMES:
            time = self.time(name)
            return None if time is None else time.seconds
        found = [run.scores.cost.get(name) for run in self.runs]
        numbers = [float(value) for value in found if isinstance(value, (int, float))]
        return float(np.mean(numbers)) if numbers else None

    def time(self, name: str) -> Time | None:
        """A sampling time with its spread and its mark; None where no run has it."""
        return time_of([run.scores.cost for run in self.runs], name)

    def ranked_cost(self, name: str) -> float | None:
        """A number in ``cost`` by which rows may be ranked; None for a busy machine's time.

        ``train_flops`` counts the first stage, as ``training_flops`` does.
        """
        if name == "train_flops":
            return self.training_flops
        time = self.time(name) if name in TIMES else None
        return None if time is not None and time.busy else self.cost(name)

    @property
    def parameters(self) -> float | None:
        """Parameters of all parts; runs of one group have equally many."""
        parts = self.runs[0].scores.cost.get("parameters") or {}
        return float(sum(parts.values())) if parts else None

    @property
    def training_flops(self) -> float | None:
        """Training FLOPs of the generator and its first stage together."""
        own = self.cost("train_flops")
        return None if own is None else own + (self.cost("parts_flops") or 0.0)

    @property
    def flops_by_part(self) -> dict[str, float]:
        """``training_flops`` by part, the largest first; empty where it was not counted so."""
        parts = self._mean_by_part("train_flops_by_part")
        if parts and (stage := self.cost("parts_flops")):
            parts["stage 1"] = stage
        return dict(sorted(parts.items(), key=lambda part: -part[1]))

    @property
    def encoding_flops(self) -> float | None:
        """FLOPs of encoding the training set once by frozen parts, which no budget is charged."""
        if all(run.scores.cost.get("frozen_flops") is None for run in self.runs):
            return None
        return float(sum(self._mean_by_part("frozen_flops").values()))

    def _mean_by_part(self, name: str) -> dict[str, float]:
        """Part -> mean over the runs that say, of a cost that is split by parts."""
        told = [parts for run in self.runs if (parts := run.scores.cost.get(name))]
        names = dict.fromkeys(part for parts in told for part in parts)
        return {part: float(np.mean([parts.get(part, 0.0) for parts in told])) for part in names}

    @property
    def training_seconds(self) -> float | None:
        """Training seconds of the generator and its first stage together."""
        own = self.cost("train_seconds")
        return None if own is None else own + (self.cost("parts_seconds") or 0.0)


def _replicates(score: Score) -> int:
    """Values whose spread a score's own interval comes from: half-samples, folds or images."""
    folds = FOLDS.search(score.key)
    return int(folds[1]) if folds else HALF_SAMPLES.get(score.metric, score.n)


def aggregate(scores: Sequence[Score]) -> GroupScore:
    """Joins the scores of several training seeds.

    k >= 2 seeds: mean +- t(0.975, k - 1) sd / sqrt(k), which says how another training would
    come out. One seed: the score's own interval, which says only how other samples of the
    same weights would.

    Args:
        scores: at least one, one a training seed, all with one key.

    Raises:
        RunError: the scores have different keys.
    """
    if len({score.key for score in scores}) > 1:
        raise RunError(
            f"scores measured in different ways ({', '.join(sorted({s.key for s in scores}))}) "
            "cannot be averaged; score the runs with one protocol and evaluator."
        )
    notes = "; ".join(dict.fromkeys(score.note for score in scores if score.note))
    if len(scores) == 1:
        (score,) = scores
        return GroupScore(score.value, score.ci_low, score.ci_high, 1, "samples", notes)
    from scipy.special import stdtrit

    values = np.array([score.value for score in scores])
    # Equal values must have no spread at all: rounding in the mean would make one up.
    equal = bool((values == values[0]).all())
    mean = float(values[0] if equal else values.mean())
    sd = 0.0 if equal else float(values.std(ddof=1))
    half = float(stdtrit(len(values) - 1, 0.975)) * sd / len(values) ** 0.5
    return GroupScore(mean, mean - half, mean + half, len(values), "training seeds", notes, sd)


def seeds_text(count: int, planned: int = 0) -> str:
    """``1 seed``, ``3 seeds`` or ``2 of 3 seeds``."""
    of = f"{count} of {planned}" if count < planned else str(count)
    return f"{of} seed{'s' if max(count, planned) != 1 else ''}"


def group_runs(runs: Sequence[ScoredRun], missing: Sequence[MissingRun] = ()) -> list[Group]:
    """Groups runs by everything but their seed, with unique labels, in order of appearance.

    Two runs of one seed are one training, or nobody knows that they are two: the second goes into
    a row of its own.
    """
    rows: dict[tuple[str, int], list[ScoredRun]] = {}
    met: Counter[tuple[str, str]] = Counter()
    for run in runs:
        training = (run.group_key, run.seed)
        rows.setdefault((run.group_key, met[training]), []).append(run)
        met[training] += 1
    members = [sorted(g, key=lambda r: r.seed) for g in rows.values()]
    labels = _labels([group[0] for group in members])
    own: list[list[MissingRun]] = [[] for _ in members]
    for lacking in missing:
        for group, absent in zip(members, own, strict=True):
            if lacking.belongs_to(group[0]):
                if lacking.seed not in {scored.seed for scored in group}:
                    absent.append(lacking)
                break
    most = max(
        (len(g) + len(m) for g, m in zip(members, own, strict=True) if g[0].family != EXTERNAL),
        default=1,
    )
    return [
        Group(label, tuple(group), tuple(absent), 1 if group[0].family == EXTERNAL else most)
        for label, group, absent in zip(labels, members, own, strict=True)
    ]


def _labels(runs: Sequence[ScoredRun]) -> list[str]:
    """Unique names: the model's, with what differs in their models where several share one.

    Where only configurations differ, the end of the run folder's name tells them apart; where
    that is shared, too, as much of the path as it takes.
    """
    plain = [_model_label(run, runs) for run in runs]
    twins: dict[str, list[ScoredRun]] = {}
    for label, run in zip(plain, runs, strict=True):
        twins.setdefault(label, []).append(run)
    labels = [
        f"{label} [{_told_apart(run, twins[label])}]" if len(twins[label]) > 1 else label
        for label, run in zip(plain, runs, strict=True)
    ]
    count = Counter(labels)
    return [
        f"{label} [{number}]" if count[label] > 1 else label
        for number, label in enumerate(labels, 1)
    ]


def _model_label(run: ScoredRun, runs: Sequence[ScoredRun]) -> str:
    """``ldm (conditioning=concat)``, what is in brackets only where another differs in it."""
    twins = [other for other in runs if other.name == run.name]
    alike = len({twin.whole_name for twin in twins if twin.family != EXTERNAL}) < 2
    fields = [f for f in run.scores.model if f not in ("name", "family", *DESCRIPTIVE)]
    differing = [
        f"{name}={run.scores.model[name]}"
        for name in fields
        if len({str(twin.scores.model.get(name)) for twin in twins}) > 1
    ]
    if run.precision and len({twin.precision for twin in twins}) > 1:
        differing.append(f"precision={run.precision}")
    differing += [EXTERNAL] if run.family == EXTERNAL else []
    name = run.name if alike else run.whole_name
    return f"{name} ({', '.join(differing)})" if differing else name


def _told_apart(run: ScoredRun, twins: Sequence[ScoredRun]) -> str:
    """``81c2d44e`` of the folder ``ldm-81c2d44e``, or the end of its path that no twin shares."""

    def suffix(other: ScoredRun) -> str:
        return other.path.name.rsplit("-", 1)[-1]

    def tail(other: ScoredRun, parts: int) -> str:
        return "/".join(other.path.absolute().parts[-parts:])

    if run.family != EXTERNAL and [suffix(other) for other in twins].count(suffix(run)) == 1:
        return suffix(run)
    depth = len(run.path.absolute().parts)
    unique = (
        parts
        for parts in range(1, depth)
        if [tail(other, parts) for other in twins].count(tail(run, parts)) == 1
    )
    return tail(run, next(unique, depth))
