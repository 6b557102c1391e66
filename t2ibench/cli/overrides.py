"""Overrides as users type them, brought into the grammar of Hydra.

A path or a name may hold what has a meaning in that grammar (``=``, commas, brackets, ``~``,
umlauts, or digits alone). The keys that take the user's own words are listed here; their values
are quoted as a whole unless the user has quoted them or wrote a sweep.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

from hydra.core.override_parser.types import Quote, QuotedString

OPEN_ENDED = ("knobs.", "knobs={", "protocol.knobs.", "protocol.knobs={")
"""Prefixes of keys that the configuration does not list, as they depend on the model."""

PATHS = (
    "data.root", "data.source.root", "data.source.cache_dir", "paths.runs", "paths.cache",
    "paths.data", "text.path", "text.encoder.path", "text.run", "parts.clip.path",
    "parts.damsm.path", "evaluator.dual_encoders.damsm.path", "parts.base.run", "start", "base",
    "hydra.launcher.submitit_folder",
)  # fmt: skip
"""Keys whose values are files, folders, or names and hashes of runs."""

JUDGES = re.compile(r"evaluator\.(extractors|dual_encoders)\.\w+\.(folder|weights)")
"""Keys of the files of judging networks, whose names depend on what is chosen."""

NAMES = (
    "study.name", "data.source.name", "data.source.encoding", "data.source.group_column",
    "data.source.split_column", "logger.wandb.project", "logger.wandb.group",
    "hydra.launcher.name",
)  # fmt: skip
"""Keys whose values are names that users give."""

ONE = ("study.name", "paths.runs", "paths.cache", "paths.data")
"""Keys among these that are never swept and never null."""

OVERRIDE = re.compile(r"^(\+{0,2})([\w./@]+)=(.*)$", re.DOTALL)
_ONE_QUOTED = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
QUOTED = re.compile(rf"{_ONE_QUOTED}(?:\s*,\s*{_ONE_QUOTED})*")
SWEEP = re.compile(r"(choice|shuffle|sort|tag|glob|range|interval)\(.*\)", re.DOTALL)


def for_hydra(overrides: Sequence[str]) -> list[str]:
    """Overrides in the form that Hydra accepts: knobs with ``++``, the user's words quoted.

    The empty ``knobs`` lists no key: the family declares its knobs, and ``resolve_knobs`` refuses
    the others.
    """
    opened = [f"++{o}" if o.startswith(OPEN_ENDED) else o for o in overrides]
    return [with_quotes(override) for override in opened]


def with_quotes(override: str) -> str:
    """The override, its value quoted where its key takes a user's word.

    Example:
        >>> with_quotes("data.root=/my pics/a=b"), with_quotes("seed=0,1")
        ("data.root='/my pics/a=b'", 'seed=0,1')
        >>> with_quotes("start=12345678,1e234567")
        "start='12345678','1e234567'"
    """
    found = OVERRIDE.match(override)
    if found is None or not (is_path(found[2]) or found[2] in NAMES):
        return override
    plus, key, value = found.groups()
    if QUOTED.fullmatch(value) or SWEEP.fullmatch(value) or "${" in value:
        return override
    if value in ("null", "") and key not in ONE:
        return override
    # A comma separates the values of a sweep, unless a file has it in its name.
    whole = key in ONE or os.path.exists(os.path.expanduser(value))
    values = [value] if whole else value.split(",")
    return f"{plus}{key}={','.join(quoted(home(key, one)) for one in values)}"


def is_path(key: str) -> bool:
    """True for a key whose value is a file, a folder or a run."""
    return key in PATHS or JUDGES.fullmatch(key) is not None


def home(key: str, value: str) -> str:
    """A path with its leading ``~`` replaced, which shells leave within a word."""
    return os.path.expanduser(value) if is_path(key) and value.startswith("~") else value


def quoted(value: str) -> str:
    r"""A value in Hydra's quotes.

    Example:
        >>> print(quoted("it's"))
        'it\'s'
    """
    return QuotedString(value, Quote.single).with_quotes()


def unreadable(override: str) -> str:
    """A sentence on an override that Hydra's grammar does not read, with its remedy."""
    found = OVERRIDE.match(override)
    if found is None:
        return f"{override} is no override; type key=value."
    plus, key, value = found.groups()
    bare = value.strip("'\"")
    return (
        f"{key}={value} cannot be read: a value with other characters than letters, digits and "
        f'-_./:+%@ stands in quotes, which the shell keeps within others: "{plus}{key}='
        f'{quoted(bare)}".'
    )


def several_values(override: str) -> str:
    """A sentence on an override with several values where one is needed."""
    found = OVERRIDE.match(override)
    if found is None:
        return f"{override} has several values; choose one."
    plus, key, value = found.groups()
    bare = value.replace("'", "")
    return (
        f"{key}={bare} has several values, which `t2ibench train -m` takes; choose one, or type "
        f'"{plus}{key}={quoted(bare)}" for one word with commas in it.'
    )
