"""Names under which people keep the splits of a data set."""

from __future__ import annotations

import re
from typing import Any

from t2ibench.core.errors import DataError

WORDS = {
    "train": "train",
    "training": "train",
    "restval": "train",  # Karpathy's: validation images that are trained on
    "val": "val",
    "valid": "val",
    "validation": "val",
    "dev": "val",
    "test": "test",
    "testing": "test",
}
"""Words for a split, in lower case, with the split that each means."""

NAME = re.compile(
    rf"(?:images?[-_ ])?({'|'.join(sorted(WORDS, key=len, reverse=True))})"
    r"(?:[-_ ]?set)?(?:[-_ ]?\d{2,4})?(?:[-_ ](?:images?|set|split|data))?",
    re.IGNORECASE,
)


def split_of_name(name: str) -> str:
    """The split that a folder's name means, or empty.

    Example:
        >>> [split_of_name(n) for n in ("Train", "val2014", "dev", "test_images", "trains")]
        ['train', 'val', 'val', 'test', '']
    """
    found = NAME.fullmatch(name)
    return WORDS[found[1].lower()] if found else ""


def split_of_cell(value: Any, where: str) -> str:
    """The split that a cell of metadata names.

    Raises:
        DataError: it names none.
    """
    found = WORDS.get(value.strip().lower()) if isinstance(value, str) else None
    if found is None:
        raise DataError(
            f"{where} has split={value!r}; it must be one of {', '.join(WORDS)}. Correct it, or "
            "set data.source.split_column=null to split by hash."
        )
    return found
