"""Where each model stands: rank probabilities and fronts, as neutral tables."""

from __future__ import annotations

from t2ibench.reporting.render.numbers import share_text
from t2ibench.reporting.render.table import WORDS_WIDTH, Cell, Column, Row, Table, number, words
from t2ibench.reporting.statistics.analysis import Analysis
from t2ibench.reporting.statistics.groups import Group
from t2ibench.reporting.statistics.knob_fronts import KnobFronts
from t2ibench.reporting.statistics.metrics import instrument_of, metric_of
from t2ibench.reporting.statistics.rankings import Ranking

COST_TITLES = {"train_flops": "Train FLOPs", "seconds_per_image_best": "Time/image"}
"""Headings of the costs of Pareto fronts."""


def rank_table(analysis: Analysis) -> Table:
    """Builds the probability of each rank on each score; people are shown the first alone."""
    groups = analysis.leaderboard.groups
    columns = [
        Column(
            f"{ranking.key} rank {rank}",
            f"{metric_of(ranking.key).title} ({ranking.basis})",
            f"probability of rank {rank}",
            metric_of(ranking.key).name,
            instrument=instrument_of(ranking.key),
            key=ranking.key,
            printed=rank == 1,
        )
        for ranking in analysis.rankings
        for rank in range(1, _ranks(ranking) + 1)
    ]
    rows = [
        Row(
            group.label,
            tuple(
                cell for ranking in analysis.rankings for cell in _rank_cells(ranking, group.label)
            ),
        )
        for group in groups
    ]
    return Table("Probability of being the best", "Model", tuple(columns), tuple(rows))


def pareto_table(analysis: Analysis) -> Table:
    """Builds each model's standing in quality against each cost."""
    columns = [
        Column(
            f"pareto: {COST_TITLES[front.cost]}",
            COST_TITLES[front.cost],
            "pareto",
            front.cost,
            key=front.key,
            words=True,
            least_width=WORDS_WIDTH,
        )
        for front in analysis.pareto_fronts
    ]
    standings = [
        {point.label: point.standing for point in front.points} for front in analysis.pareto_fronts
    ]
    rows = [
        Row(
            group.label,
            tuple(
                words(by_label.get(group.label) or _unranked(group, front.cost))
                for front, by_label in zip(analysis.pareto_fronts, standings, strict=True)
            ),
        )
        for group in analysis.leaderboard.groups
    ]
    title = "Quality against cost (no other is at most as costly and better)"
    return Table(title, "Model", tuple(columns), tuple(rows))


def _unranked(group: Group, cost: str) -> str:
    """Why a model is on no front of a cost; empty where it has no such cost."""
    known = group.cost(cost) is not None and group.ranked_cost(cost) is None
    return "not ranked: busy machine" if known else ""


def knob_front_table(analysis: Analysis) -> Table:
    """Builds the share of the box of all fronts that each model's front dominates."""
    fronts = analysis.knob_fronts
    columns = [
        Column(
            f"hypervolume share, {front.y_key} {front.x_key}",
            f"{title_of(front.y_key)}, {title_of(front.x_key)}",
            "front",
            "hypervolume share",
            key=f"{front.y_key} {front.x_key}",
        )
        for front in fronts
    ]
    labels = dict.fromkeys(label for front in fronts for label in front.volumes)
    rows = [
        Row(label, tuple(number(front.volumes.get(label), share_text) for front in fronts))
        for label in labels
    ]
    title = "Share of the box of all fronts that a front dominates (validation prompts)"
    notes = tuple(sentence for front in fronts for sentence in front_sentences(front))
    return Table(title, "Model", tuple(columns), tuple(rows), notes)


def front_sentences(front: KnobFronts) -> list[str]:
    """What each pair of fronts says at equal alignment."""
    sentences = []
    x, y = metric_of(front.x_key), metric_of(front.y_key)
    for first, second, gap, low, high in front.gaps:
        better, other = (first, second) if gap < 0 else (second, first)
        reach = x.text(high) if low == high else f"{x.text(low)} to {x.text(high)}"
        sentences.append(
            f"At equal {x.title} (at least {reach}), the {y.title} of {better} is lower than "
            f"that of {other} by {y.text(abs(gap))} in the mean."
        )
    return sentences


def title_of(key: str) -> str:
    """A metric with its instrument: ``FD shapes-clip-v1``."""
    return f"{metric_of(key).title} {instrument_of(key)}"


def _ranks(ranking: Ranking) -> int:
    return len(ranking.probabilities)


def _rank_cells(ranking: Ranking, label: str) -> list[Cell]:
    """A cell a rank; dashes where the model has no such score."""
    shares = ranking.probabilities.get(label)
    if shares is None:
        return [Cell()] * _ranks(ranking)
    return [Cell(share_text(share), share, basis=ranking.basis) for share in shares]
