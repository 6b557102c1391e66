"""Everything that a comparison supports, worked out once for every format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from t2ibench.reporting.read.missing import MissingRun
from t2ibench.reporting.read.runs import ScoredRun
from t2ibench.reporting.statistics.comparisons import Comparison, compare_groups, leaders
from t2ibench.reporting.statistics.knob_fronts import KnobFronts, knob_fronts
from t2ibench.reporting.statistics.leaderboard import Leaderboard, build_leaderboard
from t2ibench.reporting.statistics.pareto import ParetoFront, pareto_fronts
from t2ibench.reporting.statistics.prompt_columns import PromptColumns
from t2ibench.reporting.statistics.rankings import Ranking, rankings


@dataclass(frozen=True)
class Analysis:
    """A leaderboard with what its numbers support.

    Attributes:
        leaderboard: the rows and columns.
        pairs: every two models.
        rankings: probability of each rank, a score each.
        knob_fronts: quality against alignment along the knob.
        pareto_fronts: quality against cost.
    """

    leaderboard: Leaderboard
    pairs: tuple[Comparison, ...]
    rankings: tuple[Ranking, ...]
    knob_fronts: tuple[KnobFronts, ...]
    pareto_fronts: tuple[ParetoFront, ...]

    @cached_property
    def leaders(self) -> dict[str, frozenset[str]]:
        """Score key -> the best and those not distinguishable from it."""
        return leaders(self.leaderboard, self.pairs)


def analyse(
    runs: Sequence[ScoredRun],
    missing: Sequence[MissingRun] = (),
    metrics: Sequence[str] = (),
    sort: str = "",
    by: str = "",
) -> Analysis:
    """Groups runs by everything but their seed, tests every pair, works out ranks and fronts.

    Args:
        runs: the scored ones.
        missing: the others, which mark the rows they belong to.
        metrics: names or whole keys of the scores; none: the usual ones.
        sort: score or cost that orders the rows; empty: the first score.
        by: fact or setting whose values become sections of the rows; empty: no sections.

    Raises:
        ConfigError: no run has ``by``.
        RunError: no runs.
        ScoreError: two groups share no score, or not one of ``metrics``.
    """
    leaderboard = build_leaderboard(runs, missing, metrics, sort, by)
    columns = PromptColumns()
    pairs = tuple(compare_groups(leaderboard.groups, leaderboard.keys, columns))
    return Analysis(
        leaderboard,
        pairs,
        tuple(rankings(leaderboard, columns)),
        tuple(knob_fronts(leaderboard)),
        tuple(pareto_fronts(leaderboard, pairs)),
    )
