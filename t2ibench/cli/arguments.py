"""Arguments of the verbs that read runs: positional words and ``key=value`` options."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from t2ibench.core.errors import ConfigError

OPTION = re.compile(r"^((?:evaluator/)?[a-z][a-z0-9_.]*)=(.*)$", re.DOTALL)
"""Pattern of options; of names with a slash only the evaluator's groups, as paths have them."""

END = "--"
"""Word after which all others are words, none options or flags."""


@dataclass(frozen=True)
class Arguments:
    """Parsed words and options after a verb.

    Attributes:
        words: run folders, prompts, names.
        options: ``key=value`` pairs, defaults filled in.
        knobs: the ``knobs.name=value`` among them.
    """

    words: list[str]
    options: dict[str, str]
    knobs: dict[str, float] = field(default_factory=dict)


def parse_arguments(verb: str, arguments: Sequence[str], defaults: Mapping[str, str]) -> Arguments:
    """Splits words from options and checks the options' names.

    Everything after ``--`` is a word, whatever it looks like; so is what a file of that name is.

    Raises:
        ConfigError: an option that the verb does not have, or a knob that is not a number.
    """
    words: list[str] = []
    options = dict(defaults)
    knobs: dict[str, float] = {}
    given, plain = split_at_end(arguments)
    for argument in given:
        match = OPTION.match(argument)
        if argument.startswith("-"):
            raise ConfigError(
                f"{verb} has no flag {argument}; options are typed key=value, and words that begin "
                f"with a minus stand after {END}: t2ibench {verb} … {END} {shlex.quote(argument)}."
            )
        if match is None:
            words.append(argument)
            continue
        name, value = match.groups()
        if name.startswith("knobs."):
            knobs[name.removeprefix("knobs.")] = number(name, value)
        elif name in defaults:
            options[name] = value
        elif Path(argument).exists():
            words.append(argument)
        else:
            known = ", ".join([*defaults, "knobs.NAME"])
            raise ConfigError(
                f"{verb} has no option {name}; it has {known}. Words with = stand after {END}: "
                f"t2ibench {verb} … {END} {shlex.quote(argument)}."
            )
    return Arguments([*words, *plain], options, knobs)


def split_at_end(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """The arguments before ``--``, and the words after it."""
    given = list(arguments)
    if END not in given:
        return given, []
    return given[: given.index(END)], given[given.index(END) + 1 :]


def number(name: str, value: str) -> float:
    """A float from an option's value; an error is one sentence."""
    try:
        return float(value)
    except ValueError:
        raise ConfigError(f"{name}={value} must be a number.") from None


def whole_number(name: str, value: str) -> int:
    """An int from an option's value; an error is one sentence."""
    try:
        return int(value)
    except ValueError:
        raise ConfigError(f"{name}={value} must be a whole number.") from None
