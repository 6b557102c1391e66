"""The leaderboard as a neutral table: what each model is, its scores, and the references."""

from __future__ import annotations

from t2ibench.reporting.render.table import (
    BLANK,
    WORDS_WIDTH,
    Cell,
    Column,
    Row,
    Table,
    words,
)
from t2ibench.reporting.statistics.analysis import Analysis
from t2ibench.reporting.statistics.groups import Group, GroupScore, seeds_text
from t2ibench.reporting.statistics.leaderboard import Leaderboard
from t2ibench.reporting.statistics.metrics import Metric, in_order, instrument_of, metric_of

FACTS = (
    Column("family", "Family", "model", words=True, folded=True),
    Column("seeds", "Seeds", "model", words=True, folded=True),
    Column("origin", "Kind", "model", words=True,
           meaning="a paper's layout and recipe, or this project's own."),
    Column("given", "Given", "model", words=True, least_width=WORDS_WIDTH,
           meaning="what the model was given beyond captions and images."),
)  # fmt: skip
"""Columns that say what a model is."""


def score_table(analysis: Analysis) -> Table:
    """Builds the leaderboard; scores that are not in the main table are for programs alone."""
    leaderboard = analysis.leaderboard
    keys = _keys(leaderboard)
    likes = [_smallest(leaderboard, key) for key in keys]
    rows: list[Row] = []
    for group in leaderboard.groups:
        cells = [
            score_cell(
                group.score(key),
                metric_of(key),
                like,
                lead=group.label in analysis.leaders.get(key, ()),
                group=group,
            )
            for key, like in zip(keys, likes, strict=True)
        ]
        made = Row(group.label, (*_facts(group), *cells))
        heading = f"{leaderboard.by} = {group.fact(leaderboard.by) or 'not said'}"
        if leaderboard.by and heading not in [row.label for row in rows if row.heading]:
            rows.append(Row(heading, tuple(BLANK for _ in made.cells), heading=True))
        rows.append(made)
    rows += [
        Row(
            reference.label,
            (
                *(BLANK for _ in FACTS),
                *(
                    score_cell(reference.score(key), metric_of(key), like)
                    for key, like in zip(keys, likes, strict=True)
                ),
            ),
            reference=True,
            meaning=reference.meaning,
        )
        for reference in leaderboard.references
    ]
    return Table("Scores", "Model", (*FACTS, *_columns(leaderboard, keys)), tuple(rows))


def score_cell(
    score: GroupScore | None,
    metric: Metric,
    like: float | None = None,
    *,
    lead: bool = False,
    group: Group | None = None,
) -> Cell:
    """A score with its interval, rounded as the value ``like`` is (its own if None)."""
    if score is None:
        return Cell()

    def text(value: float) -> str:
        return metric.text(value, score.value if like is None else like)

    partial = group is not None and score.seeds != group.seeds
    return Cell(
        text(score.value),
        score.value,
        score.low,
        score.high,
        score.sd,
        score.seeds,
        score.basis,
        spread=f"±\u2009{text((score.high - score.low) / 2)}",
        deviation="" if score.sd is None else f"sd {text(score.sd)}",
        partial=seeds_text(score.seeds, group.planned) if group is not None and partial else "",
        interval=f"[{text(score.low)}, {text(score.high)}]",
        note=score.note,
        lead=lead,
    )


def _keys(leaderboard: Leaderboard) -> list[str]:
    """Every key of a model, then those that references alone have."""
    alone = [key for reference in leaderboard.references for key in reference.scores]
    return list(dict.fromkeys([*leaderboard.all_keys, *in_order(alone)]))


def _columns(leaderboard: Leaderboard, keys: list[str]) -> list[Column]:
    """A column a key; those of the main table are numbered for their footnotes."""
    numbers = {key: number for number, key in enumerate(leaderboard.keys, 1)}
    columns = []
    for key in keys:
        metric = metric_of(key)
        columns.append(
            Column(
                key,
                metric.title,
                "score",
                metric.name,
                metric.arrow,
                metric.group,
                instrument_of(key),
                key,
                metric.meaning,
                numbers.get(key, 0),
                printed=key in numbers,
            )
        )
    return columns


def _smallest(leaderboard: Leaderboard, key: str) -> float | None:
    """The smallest score of a model decides the decimals of a column."""
    return min((abs(score.value) for score in leaderboard.scores(key).values()), default=None)


def _facts(group: Group) -> tuple[Cell, ...]:
    return (
        words(group.family),
        words(group.seeds_text),
        words(group.origin),
        words(", ".join(group.given)),
    )
