"""Pairs of models: which differences hold, and how their configurations differ.

Every test of one comparison is in one family: the scores of all pairs. So of all its "is better",
the chance that any is wrong is at most 5%, however many runs are compared, as far as each test
keeps its level (``differences`` says which does not always); to ask one question with more power,
compare fewer runs or one metric.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations

from t2ibench.reporting.statistics.differences import (
    Contrast,
    MetricDifference,
    corrected_differences,
)
from t2ibench.reporting.statistics.groups import Group
from t2ibench.reporting.statistics.leaderboard import Leaderboard
from t2ibench.reporting.statistics.metrics import metric_of
from t2ibench.reporting.statistics.prompt_columns import PromptColumns

ABSENT = "–"
"""The value of a setting that a configuration does not have."""


@dataclass(frozen=True)
class Comparison:
    """Two models.

    Attributes:
        first: label.
        second: label.
        differences: one a shared score key.
        configuration: (dotted key, first's value, second's value) where they differ.
        caveat: what the result does not say; empty with several training seeds each, none
            missing, and both given the same.
    """

    first: str
    second: str
    differences: tuple[MetricDifference, ...]
    configuration: tuple[tuple[str, str, str], ...]
    caveat: str


def compare_groups(
    groups: Sequence[Group], keys: Sequence[str], columns: PromptColumns | None = None
) -> list[Comparison]:
    """Compares every pair on the keys that both have; p-values corrected over all together.

    Args:
        groups: the models.
        keys: score keys.
        columns: scores image by image, where they are read already.
    """
    pairs = list(combinations(groups, 2))
    shared = [
        [key for key in keys if first.score(key) is not None and second.score(key) is not None]
        for first, second in pairs
    ]
    differences = iter(
        corrected_differences(
            [
                Contrast(first, second, key)
                for (first, second), asked in zip(pairs, shared, strict=True)
                for key in asked
            ],
            columns,
        )
    )
    return [
        Comparison(
            first.label,
            second.label,
            tuple(next(differences) for _ in asked),
            tuple(differing_settings(first.runs[0].settings, second.runs[0].settings)),
            _caveat(first, second),
        )
        for (first, second), asked in zip(pairs, shared, strict=True)
    ]


def leaders(
    leaderboard: Leaderboard, comparisons: Sequence[Comparison]
) -> dict[str, frozenset[str]]:
    """Score key -> the best group and those that are not distinguishable from it.

    Nobody leads alone in the table: with one group every set is empty.
    """
    if len(leaderboard.groups) < 2:
        return {key: frozenset() for key in leaderboard.keys}
    tied = {
        (frozenset((pair.first, pair.second)), difference.key)
        for pair in comparisons
        for difference in pair.differences
        if not difference.distinguishable
    }
    found = {}
    for key in leaderboard.keys:
        scores, sign = leaderboard.scores(key), metric_of(key).sign
        best = max(scores, key=lambda label: sign * scores[label].value)
        found[key] = frozenset(
            label for label in scores if label == best or (frozenset((label, best)), key) in tied
        )
    return found


def differing_settings(
    first: Mapping[str, str], second: Mapping[str, str]
) -> list[tuple[str, str, str]]:
    """Dotted keys whose values differ, with both values."""
    return [
        (key, first.get(key, ABSENT), second.get(key, ABSENT))
        for key in dict.fromkeys([*first, *second])
        if first.get(key) != second.get(key)
    ]


def _caveat(first: Group, second: Group) -> str:
    """What the pair's result does not say."""
    sentences = []
    if first.seeds != second.seeds and min(first.seeds, second.seeds) == 1:
        one, several = sorted((first, second), key=lambda group: group.seeds)
        sentences.append(
            f"{one.label} has 1 training seed and {several.label} {several.seeds}: its trainings "
            "are taken to spread as theirs do, and one proves little; train at least 3 seeds each."
        )
    elif min(first.seeds, second.seeds) == 1:
        sentences.append(
            f"{first.label} has {_seeds(first.seeds)} and {second.label} {_seeds(second.seeds)}: "
            "this tells these trained weights apart, not the families; train at least 3 seeds each."
        )
    if set(first.given) != set(second.given):
        sentences += [
            f"{group.label} was given {', '.join(group.given)} beyond captions and images: a "
            "difference may come from that, not from the model."
            for group in (first, second)
            if group.given
        ]
    sentences += [
        f"{group.label} has {group.seeds_text}: what the others would have scored is not in this."
        for group in (first, second)
        if group.seeds < group.planned
    ]
    return " ".join(sentences)


def _seeds(count: int) -> str:
    return f"{count} training seed{'s' if count != 1 else ''}"
