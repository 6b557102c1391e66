"""Everything a comparison says, worked out once for every format."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from t2ibench.report.compare import Comparison, compare_all, family_sentence, leaders
from t2ibench.report.groups import Cell, Group
from t2ibench.report.keys import split_sentences
from t2ibench.report.pareto import ParetoFront, pareto_fronts
from t2ibench.report.ranking import FrontSummary, Ranking, front_summaries, rankings
from t2ibench.report.tables import Column, Leaderboard, ReferenceRow


@dataclass(frozen=True)
class Analysis:
    """A leaderboard with what its numbers support.

    Attributes:
        board: the rows and columns.
        pairs: every two models.
        rankings: probability of each rank, a score each.
        fronts: quality against alignment along the knob.
        pareto: quality against cost.
    """

    board: Leaderboard
    pairs: tuple[Comparison, ...]
    rankings: tuple[Ranking, ...]
    fronts: tuple[FrontSummary, ...]
    pareto: tuple[ParetoFront, ...]

    @property
    def family(self) -> str:
        """Over which tests p-values are corrected."""
        return family_sentence(self.pairs)

    @cached_property
    def leaders(self) -> dict[str, frozenset[str]]:
        """Column key -> the best and those not distinguishable from it."""
        return leaders(self.board, self.pairs)

    def leads(self, group: Group, column: Column) -> bool:
        """Whether a cell is printed bold."""
        return group.label in self.leaders[column.key]

    def cautions(self) -> list[str]:
        """Holes, scores measured in several ways, and notes that belong to scores."""
        return [*hole_sentences(self.board), *split_sentences(self.board.groups),
                *score_notes(self.board)]  # fmt: skip


def analyse(board: Leaderboard) -> Analysis:
    """Tests every pair and works out ranks and fronts."""
    pairs = tuple(compare_all(board))
    return Analysis(
        board,
        pairs,
        tuple(rankings(board)),
        tuple(front_summaries(board)),
        tuple(pareto_fronts(board, pairs)),
    )


def hole_sentences(board: Leaderboard) -> list[str]:
    """What is lacking, a sentence a row; its mean is over the seeds that are there."""
    said = []
    for group in board.groups:
        if group.seeds < group.planned:
            reasons = [hole.sentence for hole in group.holes]
            if group.seeds + len(reasons) < group.planned:
                reasons.append("other rows have more")
            why = "; ".join(reasons)
            said.append(f"{group.label} has {group.seeds_text}: {why}.")
    said += [f"{hole.model} ({hole.name}) is in no row: {hole.sentence}." for hole in board.strays]
    return said


def score_notes(board: Leaderboard) -> list[str]:
    """Warnings that belong to scores: leaks, underdetermined distances."""
    notes: dict[str, list[str]] = {}
    rows: list[Group | ReferenceRow] = [*board.groups, *board.references]
    for row in rows:
        for column in board.columns:
            cell: Cell | None = row.cell(column.key)
            if cell is not None and cell.note:
                where = f"{column.metric.title} ({column.instrument}), {row.label}"
                notes.setdefault(cell.note, []).append(where)
    return [f"{note}: {'; '.join(where)}." for note, where in notes.items()]
