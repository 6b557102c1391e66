"""All that a rendered comparison says: tables and sentences, each built once."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from t2ibench.reporting.render.cost_table import cost_table
from t2ibench.reporting.render.pair_tables import PairTables, pair_tables
from t2ibench.reporting.render.score_table import score_table
from t2ibench.reporting.render.sentences import (
    absent_sentences,
    caption,
    choice_sentences,
    correction_sentence,
    given_sentences,
    key_sentences,
    leak_sentences,
    missing_sentences,
    note_sentences,
    repeat_sentences,
)
from t2ibench.reporting.render.standing_tables import knob_front_table, pareto_table, rank_table
from t2ibench.reporting.render.table import Table
from t2ibench.reporting.statistics.analysis import Analysis


@dataclass(frozen=True)
class Content:
    """What every renderer renders; a table that nothing stands in is false.

    Attributes:
        analysis: the comparison.
    """

    analysis: Analysis

    @cached_property
    def scores(self) -> Table:
        """The leaderboard with its references."""
        return score_table(self.analysis)

    @cached_property
    def costs(self) -> Table:
        """Costs of training and sampling."""
        return cost_table(self.analysis.leaderboard.groups)

    @cached_property
    def ranks(self) -> Table:
        """Probabilities of each rank."""
        return rank_table(self.analysis)

    @cached_property
    def pareto(self) -> Table:
        """Quality against cost."""
        return pareto_table(self.analysis)

    @cached_property
    def knob_fronts(self) -> Table:
        """Quality against alignment along the knob."""
        return knob_front_table(self.analysis)

    @cached_property
    def standings(self) -> tuple[Table, ...]:
        """Ranks and fronts, without those that nothing stands in."""
        return tuple(table for table in (self.ranks, self.pareto, self.knob_fronts) if table)

    @cached_property
    def pairs(self) -> tuple[PairTables, ...]:
        """Every pair of models."""
        return tuple(pair_tables(self.analysis))

    def caption(self, lead: str = "Bold") -> str:
        """What the intervals and the scores marked by ``lead`` mean."""
        return caption(self.analysis, self.scores, lead)

    @cached_property
    def correction(self) -> str:
        """Over which tests p-values are corrected."""
        return correction_sentence(self.analysis)

    @cached_property
    def leaks(self) -> tuple[str, ...]:
        """Scores of networks that a model was conditioned on or trained against."""
        return tuple(leak_sentences(self.analysis.leaderboard))

    @cached_property
    def given(self) -> tuple[str, ...]:
        """Which models learned from more than others did."""
        return tuple(given_sentences(self.analysis.leaderboard))

    @cached_property
    def repeats(self) -> tuple[str, ...]:
        """Which rows hold runs of one model and seed."""
        return tuple(repeat_sentences(self.analysis.leaderboard))

    @property
    def warnings(self) -> tuple[str, ...]:
        """What stands above the leaderboard, as it is about whole rows."""
        return (*self.leaks, *self.given, *self.repeats, *self.missing)

    @cached_property
    def missing(self) -> tuple[str, ...]:
        """Which runs are missing."""
        return tuple(missing_sentences(self.analysis.leaderboard))

    @cached_property
    def absent(self) -> tuple[str, ...]:
        """Scores that could not be computed, and what would bring them."""
        return tuple(absent_sentences(self.analysis.leaderboard))

    @cached_property
    def measurement_notes(self) -> tuple[str, ...]:
        """Scores measured in several ways, and notes that belong to scores."""
        return (*key_sentences(self.analysis.leaderboard), *note_sentences(self.scores))

    @cached_property
    def choices(self) -> tuple[str, ...]:
        """Why each model's knob has its value."""
        return tuple(choice_sentences(self.analysis.leaderboard))

    @cached_property
    def cost_notes(self) -> tuple[str, ...]:
        """Times of busy machines."""
        return tuple(note_sentences(self.costs))

    @property
    def cautions(self) -> tuple[str, ...]:
        """What a reader must know before trusting a number."""
        return (*self.warnings, *self.absent, *self.measurement_notes, *self.cost_notes)
