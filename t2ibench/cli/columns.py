"""A command with a list of values as one command a value: the columns of a sheet."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from t2ibench.cli.arguments import OPTION, Arguments, number, parse_arguments, split_at_end
from t2ibench.core.errors import ConfigError

KNOB = "knobs."


@dataclass(frozen=True)
class Column:
    """One value of the list, and the command that has it alone.

    Attributes:
        name: the option or knob; empty: the command has no list.
        value: as typed.
        asked: the parsed command.
    """

    name: str
    value: str
    asked: Arguments


def parse_columns(
    verb: str, arguments: Sequence[str], defaults: Mapping[str, str], lists: Sequence[str]
) -> list[Column]:
    """Parses a command once for each value of the option or knob that is given as a list.

    Args:
        verb: in errors.
        arguments: as typed after the verb.
        defaults: as for ``parse_arguments``.
        lists: options that may be lists of numbers, next to all knobs.

    Returns:
        The columns in the list's order, each value once; one where there is no list.

    Raises:
        ConfigError: two lists, a value that is no number, or what ``parse_arguments`` refuses.
    """
    given, _ = split_at_end(arguments)
    places = {}  # the last of a name counts, as in parse_arguments
    for place, argument in enumerate(given):
        match = OPTION.match(argument)
        if match and (match[1] in lists or match[1].startswith(KNOB)):
            places[match[1]] = place
    found = {name: at for name, at in places.items() if "," in given[at]}
    if not found:
        return [Column("", "", parse_arguments(verb, arguments, defaults))]
    if len(found) > 1:
        raise ConfigError(
            f"{' and '.join(found)} are lists; a sheet has columns of one: give the others one "
            "value each."
        )
    name, place = next(iter(found.items()))
    values = [value.strip() for value in given[place].partition("=")[2].split(",")]
    columns = []
    for value in dict.fromkeys(values):
        number(name, value)
        alone = [*arguments[:place], f"{name}={value}", *arguments[place + 1 :]]
        asked = parse_arguments(verb, alone, defaults)
        columns.append(Column(name.removeprefix(KNOB), value, asked))
    return columns
