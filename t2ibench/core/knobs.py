"""Sampling knobs, declared by each family and set by the user."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

from t2ibench.core.errors import ConfigError


@dataclass(frozen=True)
class Knob:
    """One sampling knob.

    Attributes:
        name: as typed by the user (``knobs.guidance_scale=3``).
        default: the value when nothing is said.
        low: the least allowed value.
        high: the greatest allowed value.
        fidelity_alignment: True for the one knob of a family along which its
            quality-alignment front is drawn (guidance scale, truncation psi).
        sweep: the values of that front.
        integer: True where only whole numbers make sense (steps, top-k).
        of_edits: True where only edits read it.
    """

    name: str
    default: float
    low: float
    high: float
    fidelity_alignment: bool = False
    sweep: tuple[float, ...] = ()
    integer: bool = False
    of_edits: bool = False


def resolve_knobs(
    declared: Sequence[Knob], given: Mapping[str, Any] | None = None
) -> dict[str, float]:
    """Values of all knobs: defaults overridden by ``given``, checked.

    Raises:
        ConfigError: a name that the family does not declare, or a value that is no number or out
            of its range.

    Example:
        >>> scale = Knob("guidance_scale", default=3.0, low=0.0, high=20.0, fidelity_alignment=True)
        >>> steps = Knob("num_steps", default=50, low=1, high=1000, integer=True)
        >>> resolve_knobs([scale, steps], {"num_steps": 20})
        {'guidance_scale': 3.0, 'num_steps': 20}
        >>> resolve_knobs([scale, steps], {"steps": 20})
        Traceback (most recent call last):
        t2ibench.core.errors.ConfigError: knobs.steps is not a knob of this family; it has ...
    """
    values: dict[str, float] = {knob.name: knob.default for knob in declared}
    by_name = {knob.name: knob for knob in declared}
    for name, value in (given or {}).items():
        if name not in by_name:
            raise ConfigError(
                f"knobs.{name} is not a knob of this family; it has {', '.join(sorted(by_name))}."
            )
        knob = by_name[name]
        numeric = isinstance(value, Real) and not isinstance(value, bool)
        if not numeric:
            raise ConfigError(f"knobs.{name}={value!r} must be a number.")
        if not knob.low <= value <= knob.high:
            raise ConfigError(
                f"knobs.{name}={value} is outside [{knob.low}, {knob.high}]; choose a value inside."
            )
        if knob.integer and value != int(value):
            raise ConfigError(f"knobs.{name}={value} must be a whole number.")
        values[name] = value
    return values


def front_knob(declared: Sequence[Knob]) -> Knob:
    """The family's one fidelity-alignment knob."""
    chosen = [knob for knob in declared if knob.fidelity_alignment]
    if len(chosen) != 1:
        raise ConfigError(
            f"a family declares exactly one fidelity_alignment knob, this one declares "
            f"{len(chosen)}: {[knob.name for knob in chosen]}."
        )
    return chosen[0]
