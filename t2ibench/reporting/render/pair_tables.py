"""Every pair of models as two neutral tables: verdicts, and differing configurations."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2ibench.reporting.render.numbers import p_text
from t2ibench.reporting.render.standing_tables import title_of
from t2ibench.reporting.render.table import WORDS_WIDTH, Cell, Column, Row, Table, number, words
from t2ibench.reporting.statistics.analysis import Analysis
from t2ibench.reporting.statistics.comparisons import Comparison
from t2ibench.reporting.statistics.differences import NO_DIFFERENCE, MetricDifference
from t2ibench.reporting.statistics.metrics import metric_of


@dataclass(frozen=True)
class PairTables:
    """Two models.

    Attributes:
        first: label.
        second: label.
        verdicts: a row a score that both have.
        configuration: a row a setting in which they differ.
        caveat: what the verdicts do not say, or empty.
        tally: on how many scores each is better.
    """

    first: str
    second: str
    verdicts: Table
    configuration: Table
    caveat: str
    tally: str


def pair_tables(analysis: Analysis) -> list[PairTables]:
    """Builds the tables of every pair."""
    seeds = {group.label: group.seeds_text for group in analysis.leaderboard.groups}
    return [_pair(pair, seeds) for pair in analysis.pairs]


def _pair(pair: Comparison, seeds: Mapping[str, str]) -> PairTables:
    columns = (
        Column("metric", "Metric", words=True, printed=False),
        Column("first_value", pair.first),
        Column("second_value", pair.second),
        Column("difference", "Difference, 95% interval"),
        Column("p_value", "p", printed=False),
        Column("p_holm", "p (Holm)"),
        Column("verdict", "Verdict", words=True, least_width=len(NO_DIFFERENCE)),
        Column("test", "Test", words=True),
        Column("first_seeds", "Seeds of the first", words=True, printed=False),
        Column("second_seeds", "Seeds of the second", words=True, printed=False),
        Column("key", "Key", words=True, printed=False),
    )
    titles = _titles([difference.key for difference in pair.differences])
    rows = [
        Row(title, _verdict_cells(pair, difference, seeds))
        for title, difference in zip(titles, pair.differences, strict=True)
    ]
    settings = (
        Column("first", pair.first, words=True, least_width=WORDS_WIDTH),
        Column("second", pair.second, words=True, least_width=WORDS_WIDTH),
    )
    differing = [Row(key, (words(a), words(b))) for key, a, b in pair.configuration]
    title = f"{pair.first} against {pair.second}"
    return PairTables(
        pair.first,
        pair.second,
        Table(title, "Metric", columns, tuple(rows)),
        Table("What differs in their configurations", "Key", settings, tuple(differing)),
        pair.caveat,
        _tally(pair),
    )


def _verdict_cells(
    pair: Comparison, difference: MetricDifference, seeds: Mapping[str, str]
) -> tuple[Cell, ...]:
    metric = metric_of(difference.key)

    def text(value: float) -> str:
        return metric.text(value, like=difference.first)

    interval = f"[{text(difference.low)}, {text(difference.high)}]"
    gap = Cell(
        text(difference.difference), difference.difference, difference.low, difference.high,
        spread=interval, interval=interval,
    )  # fmt: skip
    return (
        words(metric.name),
        number(difference.first, metric.text),
        number(difference.second, metric.text),
        gap,
        number(difference.p_value, p_text),
        number(difference.adjusted, p_text),
        words(difference.verdict(pair.first, pair.second)),
        words(difference.method),
        words(seeds[pair.first]),
        words(seeds[pair.second]),
        words(difference.key),
    )


def _titles(keys: Sequence[str]) -> list[str]:
    """Metrics with their arrows, with their instruments where two would read alike."""
    plain = [f"{metric_of(key).title} {metric_of(key).arrow}" for key in keys]
    count = Counter(plain)
    return [
        f"{title_of(key)} {metric_of(key).arrow}" if count[title] > 1 else title
        for key, title in zip(keys, plain, strict=True)
    ]


def _tally(pair: Comparison) -> str:
    """``ldm better on 6, gan_int_cls on 0, not distinguishable on 4``."""
    won = Counter(difference.winner(pair.first, pair.second) for difference in pair.differences)
    return (
        f"{pair.first} better on {won[pair.first]}, {pair.second} on {won[pair.second]}, "
        f"{NO_DIFFERENCE} on {won[NO_DIFFERENCE]}"
    )
