"""``status.json``: how far a run is, who it is, what its training spent."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args

from t2ibench.core.errors import ContentError
from t2ibench.core.files import read_json_object
from t2ibench.runs.clock import Clock

State = Literal["created", "running", "interrupted", "trained", "finished", "failed"]

STATUS_NAMES = ("state", "identity")

ANEW = "the command that made the run, typed again, writes it anew"
"""Remedy for a file of a run that the run's own command can write again."""


def read_status(path: Path) -> dict[str, Any]:
    """Reads a run's status.

    Raises:
        ContentError: it is not there, or an entry is of another kind.
    """
    found = read_json_object(path, *STATUS_NAMES, remedy=ANEW)
    texts = ("identity", "reason", "scored", "asked")
    wrong = [name for name in texts if not isinstance(found.get(name, ""), str)]
    if found["state"] not in get_args(State):
        wrong.append("state")
    if not is_count(found.get("failures", 0)):
        wrong.append("failures")
    if "clock" in found and not is_clock(found["clock"]):
        wrong.append("clock")
    if not found["identity"] or wrong:
        name = wrong[0] if wrong else "identity"
        shown = repr(found[name])[:40]
        raise ContentError(f"{path} has {name}={shown}, which no run writes; {ANEW}.")
    return found


def is_clock(value: Any) -> bool:
    """True for the clock of a training: amounts that are finite and not negative."""
    if not isinstance(value, Mapping):
        return False
    kinds = value.get("flops_by_kind", {})
    if not isinstance(kinds, Mapping):
        return False
    by_part = [value.get("flops_by_part", {}), *kinds.values()]
    if not all(isinstance(parts, Mapping) for parts in by_part):
        return False
    numbers = [value[name] for name in value if name not in ("flops_by_part", "flops_by_kind")]
    numbers += [count for parts in by_part for count in parts.values()]
    return (
        set(value) <= {field.name for field in fields(Clock)}
        and is_count(value.get("images_seen", 0))
        and all(is_amount(number) for number in numbers)
    )


def is_count(value: Any) -> bool:
    """True for a whole number that is not negative."""
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def is_amount(value: Any) -> bool:
    """True for a finite number that is not negative."""
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return number and math.isfinite(value) and value >= 0
