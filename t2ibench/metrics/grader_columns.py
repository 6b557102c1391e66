"""What is right and wrong in one image, column by column.

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
    """What a prompt says of one kind of object; None where it says nothing."""

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
        """How many."""


@runtime_checkable
class ParseLike(Protocol):
    """The meaning of a prompt."""

    @property
    def objects(self) -> Sequence[PhraseLike]:
        """In order."""

    @property
    def relation(self) -> tuple[int, str, int] | None:
        """Subject index, relation, object index."""

    @property
    def background(self) -> str | None:
        """Background name."""


@runtime_checkable
class FoundObject(Protocol):
    """What grading reads of a detection."""

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
    """What grading reads of an image."""

    @property
    def objects(self) -> Sequence[FoundObject]:
        """In order."""

    @property
    def background(self) -> str:
        """Background name."""

    @property
    def valid(self) -> bool:
        """Whether it is an image at all."""


@dataclass(frozen=True)
class GradeTable:
    """Grades of a batch: one array of length B a column, in [0, 1], NaN where not asked.

    Columns:
        valid: 1 unless the image is noise; every other asked column of an invalid image is 0.
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
        """The mean of each column over the images that ask for it; absent where none does."""
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


def _share(asked: list[tuple[str | None, str | None]]) -> float:
    """Share of the asked words that were seen; NaN where none was asked."""
    answers = [wanted == found for wanted, found in asked if wanted is not None]
    return float(np.mean(answers)) if answers else float("nan")


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
    """Two for shape or colour, more for both on one object, half for size."""
    shape = phrase.shape is not None and phrase.shape == found.shape
    colour = phrase.colour is not None and phrase.colour == found.colour
    size = phrase.size is not None and phrase.size == found.size
    return 2.0 * shape + 2.0 * colour + 0.6 * (shape and colour) + 0.5 * size


def _relates(slots: list[int], assigned: Sequence[FoundObject | None], parse: ParseLike) -> bool:
    """Whether subject and object are there and stand as prompted, by the sign along the axis."""
    if parse.relation is None:
        return False
    subject, relation, other = parse.relation
    one, two = assigned[slots.index(subject)], assigned[slots.index(other)]
    if one is None or two is None:
        return False
    axis, sign = _FURTHER[relation]
    offset = (one.x - two.x, one.y - two.y)[axis]
    return offset * sign > 0
