"""The two hold-outs of emoji_styles: which drawings are trained on and which are tested.

``compose`` (the main one): a *pair* of concept and style is unseen; the concept was seen in
other styles, the style with other concepts. One style of a group of near-twin concepts is
held out for all of the group, so a twin in the same style cannot give it away.

``zeroshot``: the concept is unseen, in every style, with its whole group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Literal

from t2ibench.core.errors import DataError
from t2ibench.core.hashing import derive_seed

Holdout = Literal["compose", "zeroshot"]
HOLDOUTS: tuple[Holdout, ...] = ("compose", "zeroshot")

MIN_STYLES = 3
"""A group drawn in fewer styles stays whole in compose's train split."""


def zeroshot_split(group: str) -> str:
    """Split of a group by its hash: 85% train, 5% val, 10% test."""
    bucket = derive_seed("emoji zeroshot", group) % 100
    return "train" if bucket < 85 else "val" if bucket < 90 else "test"


def compose_splits(
    drawings: Sequence[tuple[str, str, str]], twins: Mapping[str, set[str]]
) -> list[str]:
    """The split of each drawing under ``compose``.

    Each group that is drawn in at least three styles gives up one of them, chosen by hash:
    three in five of these groups to test, one in five to val. A style is only given up when
    each of its concepts is also drawn in another style, and when none of its drawings is
    identical to one that stays.

    Args:
        drawings: (group, concept, style) of each drawing.
        twins: group -> styles with a drawing identical to one of another style.
    """
    styles_of_concept: dict[str, set[str]] = defaultdict(set)
    concepts_of_cell: dict[tuple[str, str], set[str]] = defaultdict(set)
    styles_of_group: dict[str, set[str]] = defaultdict(set)
    for group, concept, style in drawings:
        styles_of_concept[concept].add(style)
        concepts_of_cell[group, style].add(concept)
        styles_of_group[group].add(style)

    held: dict[tuple[str, str], str] = {}
    for group, styles in styles_of_group.items():
        candidates = [
            style
            for style in sorted(styles - twins.get(group, set()))
            if all(len(styles_of_concept[c]) > 1 for c in concepts_of_cell[group, style])
        ]
        fate = derive_seed("emoji compose", group) % 5
        if len(styles) < MIN_STYLES or not candidates or fate == 4:
            continue
        style = candidates[derive_seed("emoji style", group) % len(candidates)]
        held[group, style] = "val" if fate == 3 else "test"
    return [held.get((group, style), "train") for group, _, style in drawings]


def assert_no_shared_raster(hashes: Sequence[str], splits: Sequence[str], where: str) -> None:
    """Stops when one raster is in two splits.

    Raises:
        DataError: names how many rasters are shared.
    """
    seen: dict[str, set[str]] = defaultdict(set)
    for digest, split in zip(hashes, splits, strict=True):
        seen[digest].add(split)
    shared = sum(len(where_seen) > 1 for where_seen in seen.values())
    if shared:
        raise DataError(f"{where}: {shared} identical images are in more than one split.")
