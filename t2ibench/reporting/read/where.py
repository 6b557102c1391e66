"""Some of the runs: those whose facts or settings match what was asked."""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import Any

from t2ibench.core.errors import ConfigError
from t2ibench.reporting.read.missing import MissingRun
from t2ibench.reporting.read.runs import ScoredRun, flat


def kept_runs(
    scored: Sequence[ScoredRun], missing: Sequence[MissingRun], asked: str
) -> tuple[list[ScoredRun], list[MissingRun]]:
    """Runs that match every condition, the missing ones by their settings.

    Args:
        scored: the scored runs.
        missing: the others.
        asked: ``family=diffusion,size=xs``: facts of ``scores.json`` (name, family, size, text,
            conditioning, seed) or settings of ``config.yaml``, with ``*`` and ``?``; values that
            are told apart by a bar are alternatives. Empty: all runs.

    Raises:
        ConfigError: a condition without ``=``, a name that no run has, or no run left.
    """
    conditions = [_condition(word) for word in asked.split(",") if word]
    for name, _ in conditions:
        check_named("where", name, scored)
    kept = [run for run in scored if _holds(run.facts, conditions)]
    if not kept:
        raise ConfigError(f"where={asked} leaves none of {len(scored)} runs; ask for less.")
    absent = [r for r in missing if _holds(_names(flat(r.config), r.config), conditions)]
    return kept, absent


def check_named(option: str, name: str, scored: Sequence[ScoredRun]) -> None:
    """Refuses a name that is neither a fact nor a setting of any run.

    Raises:
        ConfigError: no run has it.
    """
    if not any(name in run.facts for run in scored):
        offered = ", ".join(sorted(scored[0].scores.model)) if scored else "none"
        raise ConfigError(
            f"{option}={name} names nothing that a run here has; it is one of {offered}, or a "
            "dotted key of config.yaml."
        )


def _condition(word: str) -> tuple[str, list[str]]:
    """A name with the patterns of which its value must match one."""
    name, equals, value = word.partition("=")
    if not (name and equals):
        raise ConfigError(f"where={word} must be NAME=VALUE, for example where=family=diffusion.")
    return name, value.split("|")


def _names(settings: dict[str, str], config: dict[str, Any]) -> dict[str, str]:
    """A missing run's settings with the facts that they hold."""
    model = config.get("model") or {}
    known = {"name": str(model.get("name", "")).rsplit("/", 1)[-1]}
    for fact, name in (("family", "model.family"), ("text", "text.name"), ("data", "data.name")):
        if name in settings:
            known[fact] = settings[name]
    return settings | known


def _holds(known: dict[str, str], conditions: Sequence[tuple[str, list[str]]]) -> bool:
    """Whether every condition holds."""
    return all(
        any(fnmatchcase(known.get(name, ""), pattern) for pattern in patterns)
        for name, patterns in conditions
    )
