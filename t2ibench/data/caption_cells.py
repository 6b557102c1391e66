"""Captions in one cell of a table, in the forms in which people store several of them."""

from __future__ import annotations

import ast
import json
import math
from collections.abc import Mapping
from typing import Any

from t2ibench.core.errors import DataError
from t2ibench.data.records import clean_caption

TEXT_KEYS = ("raw", "text", "caption", "captions")
"""Keys under which an object holds its caption: ``raw`` in Karpathy's COCO, ``text`` elsewhere."""


def captions_in_cell(value: Any) -> list[str]:
    """The non-empty captions of a cell, clean.

    A cell is a string, bytes of UTF-8, a number, nothing (also NaN, which pandas writes), an object
    with its caption under one of ``TEXT_KEYS``, or a list of these; a string that is such a list as
    JSON or Python writes it is read as one.

    Raises:
        DataError: a cell of another kind; tells what it holds.

    Example:
        >>> captions_in_cell([{"raw": "a ring", "tokens": ["a", "ring"]}, None, "a moon "])
        ['a ring', 'a moon']
        >>> captions_in_cell("['a ring', 'a moon']")
        ['a ring', 'a moon']
    """
    if is_absent(value):
        return []
    if isinstance(value, bytes):
        try:
            value = value.decode("utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{_shown(value)}, which is not UTF-8") from None
    if isinstance(value, str):
        several = _listed(value)
        if several is None:
            cleaned = clean_caption(value)
            return [cleaned] if cleaned else []
        value = several
    if isinstance(value, (list, tuple)):
        return [caption for item in value for caption in captions_in_cell(item)]
    if isinstance(value, Mapping):
        keys = [key for key in TEXT_KEYS if key in value]
        if len(keys) == 1:
            return captions_in_cell(value[keys[0]])
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return [str(value)]
    raise DataError(
        f"{_shown(value)}; a caption is a string, a list of strings, or an object with one of "
        f"{', '.join(TEXT_KEYS)}"
    )


def is_absent(value: Any) -> bool:
    """True for a cell without a value: None, or NaN, which pandas writes."""
    return value is None or (isinstance(value, float) and math.isnan(value))


def _listed(text: str) -> list[Any] | None:
    """The list that a string spells, or None where it is an ordinary caption.

    Raises:
        DataError: it begins and ends like a list of strings or objects and is none.
    """
    bare = text.strip()
    if not (bare.endswith("]") and bare.startswith(("['", '["', "[{"))):
        return None
    try:
        found = json.loads(bare)
    except (ValueError, RecursionError):
        try:
            found = ast.literal_eval(bare)
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            found = None
        # A list that lost its commas (numpy prints so) would be read as one joined string.
        if repr(found) != bare:
            raise DataError(
                f"{_shown(bare)}, which begins like a list of captions and cannot be read as one"
            ) from None
    return found if isinstance(found, list) else None


def _shown(value: Any) -> str:
    """The value as it is printed in an error, shortened."""
    shown = repr(value)
    return shown if len(shown) <= 60 else f"{shown[:57]}…"
