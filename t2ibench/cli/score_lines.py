"""Lines that ``t2ibench score`` prints: the row of scores with their keys, and where they lie."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from t2ibench.core.types import Score
from t2ibench.evaluation.results import RunScores

INDENT = "  "


def row_text(scores: RunScores, file: Path | None) -> str:
    """The row of a scored model: each score with its interval and key, and what is absent.

    Args:
        scores: the scores.
        file: where they were written; None: nowhere.
    """
    model = scores.model
    kind = " (external)" if model["family"] == "external" else ""
    seed = "" if model["seed"] is None else f", seed {model['seed']}"
    lines = [f"{model['name']}{kind}{seed}, scored as {scores.scoring}:"]
    found = scores.chosen.scores.values()
    widest = max((len(score.metric) for score in found), default=0)
    lines += [INDENT + score_text(score, widest) for score in found]
    lines += [f"{INDENT}no {name}: {why}" for name, why in scores.absent.items()]
    if file is not None:
        lines.append(f"{INDENT}{file}")
    return "\n".join([*lines, ""])


def score_text(score: Score, width: int) -> str:
    """``fd  12.34 [11.9, 12.8]  fd[KEY]  (note)``.

    Example:
        >>> score_text(Score(12.345, 8, 11.9, 12.8, "fd[net@8|x]", "few images"), 4)
        'fd    12.35 [11.9, 12.8]  fd[net@8|x]  (few images)'
    """
    interval = f"{score.value:.4g} [{score.ci_low:.4g}, {score.ci_high:.4g}]"
    note = f"  ({score.note})" if score.note else ""
    return f"{score.metric:<{width}}  {interval}  {score.key}{note}"


def skills_text(scores: Mapping[str, Score]) -> str:
    """Table of the grader's skills on training-like and held-out prompts; empty without these."""
    by_name = {score.metric: score for score in scores.values()}
    lines = [
        f"  {name.removeprefix('grader_'):<12}{100 * by_name[name].value:>7.1f}"
        f"{100 * by_name[f'{name}_heldout'].value:>11.1f}"
        for name in by_name
        if f"{name}_heldout" in by_name
    ]
    return (
        "\n".join([f"  {'skill':<12}{'iid %':>7}{'held-out %':>11}", *lines, ""]) if lines else ""
    )
