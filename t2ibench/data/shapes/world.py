"""The procedural world's vocabulary, its scenes as data, and the facts the grader needs.

Positions and radii are fractions of the image side, x to the right and y down. A scene is
JSON-able and says everything about its image; nothing here draws or samples.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from jaxtyping import Float

from t2ibench.core.errors import ConfigError
from t2ibench.data.shapes.masks import shape_masks

WORLD_VERSION = 1
"""Changes whenever a scene, caption or pixel of any configuration changes."""

LEVELS = ("L1", "L2", "L3", "L4")
SHAPES_32 = ("circle", "square", "triangle", "cross", "ring", "heart", "diamond", "moon")
SHAPES_64 = (*SHAPES_32, "star", "pentagon")

LEAST_SIDE, GREATEST_SIDE = 8, 1024
"""Pixels a side that can be rendered."""

LEAST_GRADABLE_SIDE, GREATEST_GRADABLE_SIDE = 32, 128
"""Pixels a side that can be graded: the grader's templates take 0.5 GB at 128, 4 GB at 256."""

COLOURS: dict[str, tuple[float, float, float]] = {
    "red": (0.86, 0.12, 0.12),
    "green": (0.10, 0.62, 0.20),
    "blue": (0.12, 0.25, 0.85),
    "yellow": (0.95, 0.85, 0.10),
    "purple": (0.50, 0.10, 0.65),
    "orange": (0.98, 0.50, 0.05),
    "cyan": (0.10, 0.80, 0.85),
    "pink": (1.00, 0.55, 0.75),
}
"""RGB in [0, 1]; each at least 0.37 from every background (a test holds it)."""

BACKGROUNDS: dict[str, tuple[float, float, float]] = {
    "white": (1.0, 1.0, 1.0),
    "grey": (0.55, 0.55, 0.55),
    "black": (0.08, 0.08, 0.08),
}

SIZES = ("small", "large")
RELATIONS = ("left", "right", "above", "below")
OPPOSITE = {"left": "right", "right": "left", "above": "below", "below": "above"}

Relation = tuple[int, str, int]
"""Subject index, one of ``RELATIONS``, object index: ``(0, "left", 1)``."""


@dataclass(frozen=True)
class SceneObject:
    """One shape: its names, its centre and its radius in fractions of the image side."""

    shape: str
    colour: str
    size: str
    x: float
    y: float
    radius: float


@dataclass(frozen=True)
class Backdrop:
    """The background behind the objects.

    Attributes:
        colour: a name in ``BACKGROUNDS``.
        style: flat, gradient (a linear ramp) or texture (smooth waves).
        angle: direction of the ramp in radians.
        amplitude: end-to-end change of the ramp in unit RGB, or the waves' standard deviation.
        phases: the waves' parameters in [0, 1), four numbers a wave.
    """

    colour: str
    style: str = "flat"
    angle: float = 0.0
    amplitude: float = 0.0
    phases: tuple[float, ...] = ()


@dataclass(frozen=True)
class Scene:
    """A whole image as data.

    Attributes:
        level: the level its content belongs to.
        objects: from one to four.
        backdrop: the background.
        relation: of the two objects where the level speaks of one, else None.
    """

    level: str
    objects: tuple[SceneObject, ...]
    backdrop: Backdrop
    relation: Relation | None = None

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        fields = asdict(self)
        fields["objects"] = [asdict(item) for item in self.objects]
        fields["backdrop"]["phases"] = list(self.backdrop.phases)
        fields["relation"] = list(self.relation) if self.relation else None
        return fields

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> Scene:
        """The inverse of ``to_dict``."""
        backdrop = dict(fields["backdrop"])
        backdrop["phases"] = tuple(backdrop["phases"])
        relation = fields["relation"]
        return Scene(
            level=fields["level"],
            objects=tuple(SceneObject(**item) for item in fields["objects"]),
            backdrop=Backdrop(**backdrop),
            relation=(relation[0], relation[1], relation[2]) if relation else None,
        )


@dataclass(frozen=True)
class ObjectPhrase:
    """One kind of object in a caption; None for what the caption leaves open."""

    shape: str | None
    colour: str | None = None
    size: str | None = None
    count: int = 1


@dataclass(frozen=True)
class Parse:
    """The canonical meaning of a caption.

    Attributes:
        objects: one phrase a kind of object, in the caption's order; the scene holds
            these objects and no others.
        relation: between two phrases (indices into ``objects``), or None.
        background: a name in ``BACKGROUNDS``, or None.
    """

    objects: tuple[ObjectPhrase, ...]
    relation: Relation | None = None
    background: str | None = None

    @property
    def count(self) -> int:
        """Number of objects that the caption asks for in all."""
        return sum(phrase.count for phrase in self.objects)

    def to_dict(self) -> dict[str, Any]:
        """A JSON-ready mapping."""
        return {
            "objects": [asdict(phrase) for phrase in self.objects],
            "relation": list(self.relation) if self.relation else None,
            "background": self.background,
        }

    @staticmethod
    def from_dict(fields: dict[str, Any]) -> Parse:
        """The inverse of ``to_dict``."""
        relation = fields["relation"]
        return Parse(
            tuple(ObjectPhrase(**phrase) for phrase in fields["objects"]),
            (relation[0], relation[1], relation[2]) if relation else None,
            fields["background"],
        )


@dataclass(frozen=True)
class ShapesWorld:
    """Levels, shapes, sizes and gaps that a resolution can carry and still be gradable.

    At 32 px a shape has few pixels, so the two shapes that differ least from others (star,
    pentagon) are left out, radii and gaps are larger, and counts end at three.

    Args:
        level: one level or several, ``"L1"`` or ``"L1+L2"``; a scene's level is drawn
            uniformly among them.
        resolution: 8 to 1024; below 48 px the 32 px rules hold, above the 64 px rules. Below
            32 px, where the base of a cascade works, and above 128 px nothing is gradable.

    Raises:
        ConfigError: a level is unknown, or the resolution is out of its range.
    """

    level: str = "L1"
    resolution: int = 32
    levels: tuple[str, ...] = field(init=False)
    shapes: tuple[str, ...] = field(init=False)
    radii: dict[str, float] = field(init=False)
    gap: float = field(init=False)
    max_count: int = field(init=False)

    def __post_init__(self) -> None:
        levels = tuple(self.level.split("+"))
        unknown = [level for level in levels if level not in LEVELS]
        if unknown or len(set(levels)) != len(levels):
            raise ConfigError(
                f"data.level={self.level!r} is not made of distinct levels of "
                f"{', '.join(LEVELS)} joined by '+', for example 'L1' or 'L1+L2'."
            )
        if not LEAST_SIDE <= self.resolution <= GREATEST_SIDE:
            raise ConfigError(
                f"data.resolution={self.resolution}: the shapes world is drawn at {LEAST_SIDE} to "
                f"{GREATEST_SIDE} pixels a side."
            )
        coarse = self.resolution < 48
        put = object.__setattr__
        put(self, "levels", levels)
        put(self, "shapes", SHAPES_32 if coarse else SHAPES_64)
        put(
            self,
            "radii",
            dict(small=0.135, large=0.19) if coarse else dict(small=0.105, large=0.17),
        )
        put(self, "gap", 0.06 if coarse else 0.04)
        put(self, "max_count", 3 if coarse else 4)

    @property
    def gradable(self) -> bool:
        """True where a shape has enough pixels to be told from others, and few enough to match."""
        return LEAST_GRADABLE_SIDE <= self.resolution <= GREATEST_GRADABLE_SIDE

    @property
    def colours(self) -> dict[str, tuple[float, float, float]]:
        """Colour names and RGB in [0, 1]."""
        return COLOURS

    @property
    def backgrounds(self) -> dict[str, tuple[float, float, float]]:
        """Background names and RGB in [0, 1]."""
        return BACKGROUNDS

    def masks(
        self,
        shape: str,
        x: Float[np.ndarray, " n"],
        y: Float[np.ndarray, " n"],
        radius: Float[np.ndarray, " n"],
        size: int,
    ) -> Float[np.ndarray, "n size size"]:
        """Coverage in [0, 1] of one shape at n places, lengths in pixels, as rendered."""
        return shape_masks(shape, x, y, radius, size)

    def separated(self, one: SceneObject, other: SceneObject) -> bool:
        """True where two objects are far enough apart to be seen as two."""
        distance = ((one.x - other.x) ** 2 + (one.y - other.y) ** 2) ** 0.5
        return distance >= self.min_distance(one.radius, other.radius)

    def min_distance(self, radius: float, other: float) -> float:
        """Least distance of two centres: 1.25 (r_i + r_j) and the gap."""
        return 1.25 * (radius + other) + self.gap


def relation_holds(dx: float, dy: float, relation: str) -> bool:
    """True where a subject at (dx, dy) from the object stands in the relation, by sign alone."""
    return {"left": dx < 0, "right": dx > 0, "above": dy < 0, "below": dy > 0}[relation]
