"""Grades of one image, one column for each thing that can be right or wrong.

With k objects prompted, the k largest detections are the candidates (more are only a wrong
count): a generator gains nothing by scattering objects. Candidates are assigned to prompted
objects so that most shapes and colours agree (then sizes, then the relation).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import permutations
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

COLUMNS = (
    "valid",
    "presence",
    "count",
    "colour",
    "shape",
    "size",
    "binding",
    "relation",
    "background",
    "exact",
)

_FURTHER = {"left": (0, -1), "right": (0, 1), "above": (1, -1), "below": (1, 1)}


@runtime_checkable
class PhraseLike(Protocol):
    """One kind of object in a prompt; None for what the prompt leaves open."""

    @property
    def shape(self) -> str | None:
        """Shape name."""

    @property
    def colour(self) -> str | None:
        """Colour name."""

    @property
    def size(self) -> str | None:
        """Size name."""

    @property
    def count(self) -> int:
        """Number of such objects."""


@runtime_checkable
class ParseLike(Protocol):
    """The meaning of a prompt."""

    @property
    def objects(self) -> Sequence[PhraseLike]:
        """Kinds of objects, in the prompt's order."""

    @property
    def relation(self) -> tuple[int, str, int] | None:
        """Subject index, relation, object index."""

    @property
    def background(self) -> str | None:
        """Background name."""


@runtime_checkable
class FoundObject(Protocol):
    """Interface of a detected object."""

    @property
    def shape(self) -> str | None:
        """Shape name."""

    @property
    def colour(self) -> str:
        """Colour name."""

    @property
    def size(self) -> str | None:
        """Size name."""

    @property
    def x(self) -> float:
        """Centre to the right, any unit."""

    @property
    def y(self) -> float:
        """Centre downwards, the same unit."""


@runtime_checkable
class SeenImage(Protocol):
    """Interface of a detected image."""

    @property
    def objects(self) -> Sequence[FoundObject]:
        """Detected objects, the largest first."""

    @property
    def background(self) -> str:
        """Background name."""

    @property
    def valid(self) -> bool:
        """False for an image of noise."""


@dataclass(frozen=True)
class GradeTable:
    """Grades of a batch: one array of length B a column, in [0, 1].

    A grade is NaN where the prompt says nothing of it.

    Columns:
        valid: 1 unless the image is noise; an invalid image gets 0 in every other column it has.
        presence: share of the prompted shapes (kinds) of which one accepted object is there.
        count: 1 where as many objects are seen, known or unknown, as prompted.
        colour: share of prompted objects whose assigned object has the prompted colour,
            whether or not its shape is known (chance with eight colours: 0.125).
        shape: share of prompted objects whose assigned object is accepted as the prompted
            shape (chance with eight shapes: at most 0.125).
        size: the same for the size.
        binding: share of prompted objects with shape and colour right on one object.
        relation: 1 where both related objects are bound rightly and stand as prompted.
        background: 1 where the border has the prompted background colour.
        exact: 1 where count, all shapes, all colours and the relation are right.
    """

    columns: dict[str, Float[np.ndarray, " B"]]

    def __len__(self) -> int:
        return len(self.columns["valid"])

    def __getitem__(self, name: str) -> Float[np.ndarray, " B"]:
        return self.columns[name]

    def summary(self) -> dict[str, float]:
        """The mean of each column over the images that have it; absent where none has."""
        return {
            name: float(np.nanmean(values))
            for name, values in self.columns.items()
            if np.isfinite(values).any()
        }


def grade_image(seen: SeenImage, parse: ParseLike) -> tuple[float, ...]:
    """One row of a ``GradeTable``, in the order of ``COLUMNS``."""
    slots = [i for i, phrase in enumerate(parse.objects) for _ in range(phrase.count)]
    candidates = list(seen.objects[: len(slots)])
    assigned = _assign(slots, candidates, parse)
    pairs = [(parse.objects[slot], found) for slot, found in zip(slots, assigned, strict=True)]
    shape = _share([(p.shape, found.shape if found else None) for p, found in pairs])
    colour = _share([(p.colour, found.colour if found else None) for p, found in pairs])
    size = _share([(p.size, found.size if found else None) for p, found in pairs])
    bound = [found is not None and _bound(p, found) for p, found in pairs]
    kinds = {p.shape for p in parse.objects if p.shape}
    presence = (
        float(np.mean([any(found.shape == kind for found in seen.objects) for kind in kinds]))
        if kinds
        else float("nan")
    )
    count = float(seen.valid and len(seen.objects) == len(slots))
    relation = float("nan")
    if parse.relation is not None:
        relation = float(_relates(slots, assigned, parse) and all(bound))
    background = float("nan")
    if parse.background is not None:
        background = float(seen.valid and seen.background == parse.background)
    exact = float(count == 1.0 and all(bound) and relation != 0.0)
    return (
        float(seen.valid),
        presence,
        count,
        colour,
        shape,
        size,
        float(np.mean(bound)),
        relation,
        background,
        exact,
    )


def _share(pairs: list[tuple[str | None, str | None]]) -> float:
    """Share of the (prompted, found) words that agree; NaN where none is prompted."""
    agree = [prompted == found for prompted, found in pairs if prompted is not None]
    return float(np.mean(agree)) if agree else float("nan")


def _bound(phrase: PhraseLike, found: FoundObject) -> bool:
    return phrase.shape in (None, found.shape) and phrase.colour in (None, found.colour)


def _assign(
    slots: list[int], candidates: list[FoundObject], parse: ParseLike
) -> list[FoundObject | None]:
    """The best assignment of candidates to prompted objects, by trying all of them."""
    options: list[FoundObject | None] = [*candidates, *[None] * (len(slots) - len(candidates))]
    if len(slots) > 5:
        return options
    best, best_value = options, -1.0
    for order in permutations(options):
        value = sum(
            _agreement(parse.objects[slot], found)
            for slot, found in zip(slots, order, strict=True)
            if found is not None
        )
        if parse.relation is not None:
            value += 0.1 * _relates(slots, list(order), parse)
        if value > best_value:
            best, best_value = list(order), value
    return best


def _agreement(phrase: PhraseLike, found: FoundObject) -> float:
    """Agreement of two objects: 2 for shape or colour, more for both, half for size."""
    shape = phrase.shape is not None and phrase.shape == found.shape
    colour = phrase.colour is not None and phrase.colour == found.colour
    size = phrase.size is not None and phrase.size == found.size
    return 2.0 * shape + 2.0 * colour + 0.6 * (shape and colour) + 0.5 * size


def _relates(slots: list[int], assigned: Sequence[FoundObject | None], parse: ParseLike) -> bool:
    """True where subject and object stand as prompted, by the sign along the axis."""
    if parse.relation is None:
        return False
    subject, relation, other = parse.relation
    one, two = assigned[slots.index(subject)], assigned[slots.index(other)]
    if one is None or two is None:
        return False
    axis, sign = _FURTHER[relation]
    offset = (one.x - two.x, one.y - two.y)[axis]
    return offset * sign > 0
