"""What a comparison found in short: who leads on the main questions, and how surely."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from t2ibench.reporting.render.numbers import seconds_text
from t2ibench.reporting.statistics.analysis import Analysis
from t2ibench.reporting.statistics.metrics import first_key, metric_of

QUESTIONS = (
    ("Nearest to real images", ("fid", "fd", "kid")),
    ("Everything in the prompt right", ("grader_exact",)),
    ("Best CLIP-score", ("clip_score",)),
)
"""What is asked, and the scores that answer, the preferred first."""


@dataclass(frozen=True)
class Finding:
    """One question with its answer.

    Attributes:
        question: what was asked.
        leader: label of the best model.
        given: what the leader was given beyond captions and images; empty for nothing.
        sentence: by how much it leads, and how surely.
    """

    question: str
    leader: str
    given: str
    sentence: str


def findings(analysis: Analysis) -> list[Finding]:
    """Answers for the main distance, alignment and speed; none without two models."""
    leaderboard = analysis.leaderboard
    if len(leaderboard.groups) < 2:
        return []
    given = {group.label: ", ".join(group.given) for group in leaderboard.groups}

    def named(label: str) -> str:
        return f"{label} (given {given[label]})" if given[label] else label

    found = []
    for question, names in QUESTIONS:
        key = first_key(leaderboard.keys, names)
        scores = {} if key is None else leaderboard.scores(key)
        if key is not None and len(scores) > 1:
            sign = metric_of(key).sign
            first, second = sorted(scores, key=lambda label: -sign * scores[label].value)[:2]
            sentence = _lead(analysis, key, first, second, named)
            plain = [label for label in scores if not given[label]]
            if given[first] and plain:
                best = max(plain, key=lambda label: sign * scores[label].value)
                measured = metric_of(key).text(scores[best].value)
                sentence += f" Of those given captions and images alone: {best}, {measured}."
            found.append(Finding(question, first, given[first], sentence))
    fastest = "seconds_per_image_best"
    timed = {g.label: t for g in leaderboard.groups if (t := g.ranked_cost(fastest))}
    busy = [g.label for g in leaderboard.groups if g.cost(fastest) and g.label not in timed]
    if len(timed) > 1:
        first, second = sorted(timed, key=lambda label: timed[label])[:2]
        sentence = (
            f"{seconds_text(timed[first])} an image; {named(second)} takes "
            f"{timed[second] / timed[first]:.1f} times as long."
        )
        if busy:
            sentence += f" Not ranked, timed on a busy machine: {', '.join(busy)}."
        found.append(Finding("Fastest to sample", first, given[first], sentence))
    return found


def _lead(
    analysis: Analysis, key: str, first: str, second: str, named: Callable[[str], str]
) -> str:
    """The leader's score, and whom it is ahead of or not distinguishable from."""
    metric, scores = metric_of(key), analysis.leaderboard.scores(key)
    tied = [label for label in scores if label in analysis.leaders[key] - {first}]
    measured = f"{metric.title} {metric.text(scores[first].value)}"
    if tied:
        return f"{measured}; not distinguishable from {' and '.join(map(named, tied))}."
    return f"{measured}; ahead of {named(second)} with {metric.text(scores[second].value)}."
