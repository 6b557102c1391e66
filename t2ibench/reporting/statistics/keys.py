"""Which scores may stand side by side: those measured with one key, and no others."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from t2ibench.core.errors import ScoreError
from t2ibench.reporting.statistics.groups import Group
from t2ibench.reporting.statistics.metrics import metric_of

FOLDERS = "folders"
"""Protocol of two folders of pictures, which ``reference=`` chooses and nobody types."""


def keys_of(group: Group, metric: str = "") -> list[str]:
    """Score keys of any run of a group; of one metric (its name or a whole key) if named."""
    return [key for key in group.scores if not metric or metric in (key, metric_of(key).name)]


def check_shared(groups: Sequence[Group]) -> None:
    """Refuses groups of which two have no score in common.

    Raises:
        ScoreError: names the two, a key of each and the remedy.
    """
    for first, second in combinations(groups, 2):
        mine, theirs = keys_of(first), keys_of(second)
        if set(mine).isdisjoint(theirs):
            names = [metric_of(key).name for key in mine]
            other = next((key for key in theirs if metric_of(key).name in names), theirs[0])
            own = next((k for k in mine if metric_of(k).name == metric_of(other).name), mine[0])
            raise ScoreError(
                f"{first.label} and {second.label} share no score: {own} and {other} are "
                f"measured in different ways; {_remedy(first, second)}"
            )


def shared_keys(groups: Sequence[Group], metric: str) -> list[str]:
    """The keys of one metric that every group has.

    Raises:
        ScoreError: a group has no such score, or two have it under different keys alone.
    """
    found = {group.label: keys_of(group, metric) for group in groups}
    without = [label for label, keys in found.items() if not keys]
    if len(without) == len(groups):
        known = sorted({metric_of(key).name for group in groups for key in keys_of(group)})
        raise ScoreError(f"metric={metric} is not measured here; choose {', '.join(known)}.")
    if without:
        raise ScoreError(
            f"{', '.join(without)} has no {metric}, which the others have; score it again with "
            "their protocol and evaluator (`t2ibench score RUN protocol=NAME evaluator=NAME`), "
            "or leave it out."
        )
    shared = [key for key in found[groups[0].label] if all(key in k for k in found.values())]
    if shared:
        return shared
    for first, second in combinations(groups, 2):
        if set(found[first.label]).isdisjoint(found[second.label]):
            raise ScoreError(
                f"{metric} of {first.label} is {found[first.label][0]}, of {second.label} "
                f"{found[second.label][0]}: they are measured in different ways and never "
                f"compared; {_remedy(first, second)}"
            )
    raise ScoreError(
        f"no key of {metric} is common to all {len(groups)} rows; score them with one protocol "
        "and evaluator, or compare fewer."
    )


def _remedy(first: Group, second: Group) -> str:
    """Where their protocols differ, and what to type."""
    mine, theirs = (group.runs[0].scores.protocol for group in (first, second))
    differing = [
        f"{name} {mine.get(name)} and {theirs.get(name)}"
        for name in dict.fromkeys([*mine, *theirs])
        if mine.get(name) != theirs.get(name)
    ]
    where = f" (their protocols have {'; '.join(differing)})" if differing else ""
    paths = [str(group.runs[0].path).removesuffix(".scored") for group in (first, second)]
    if label := _shared_scoring(first, second):
        return (
            f"both are scored under {label} as well: `t2ibench compare "
            f"{first.runs[0].path} {second.runs[0].path} protocol={label}`."
        )
    folders = [protocol.get("name") == FOLDERS for protocol in (mine, theirs)]
    if all(folders):
        counts = [protocol.get("num_images", 0) for protocol in (mine, theirs)]
        fewer = f" protocol.test.num_images={min(counts)}" if len(set(counts)) > 1 else ""
        reference = first.runs[0].scores.model["data"]
        return (
            f"score both against one reference{where}, for example `t2ibench score {paths[1]} "
            f"reference=FOLDER{fewer}`, FOLDER being {reference}, which {first.label} was scored "
            f"against{f', and {first.label} likewise' if fewer else ''}."
        )
    path, wanted = (paths[0], theirs) if folders[0] else (paths[1], mine)
    return (
        f"score both with one protocol and evaluator{where}, for example `t2ibench score "
        f"{path} protocol={wanted.get('name', 'NAME')}`."
    )


def _shared_scoring(first: Group, second: Group) -> str:
    """Label of another scoring that every run of both groups has; empty without one."""
    runs = [*first.runs, *second.runs]
    return next(
        (
            label
            for label in runs[0].scorings
            if all(label in run.scorings for run in runs)
            and any(label != run.scores.scoring for run in runs)
        ),
        "",
    )
