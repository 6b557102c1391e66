"""Scenes drawn at random, each a pure function of (world, seed, split, index).

Held-out compositions are defined here too: a training scene is redrawn until it holds none of
them, a held-out test scene until it holds one.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Float

from t2ibench.core.errors import ConfigError
from t2ibench.core.hashing import derive_seed
from t2ibench.data.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    RELATIONS,
    SIZES,
    Backdrop,
    Relation,
    Scene,
    SceneObject,
    ShapesWorld,
)

HOLDOUTS = ("iid", "shape-colour", "size-colour", "count", "relation", "paraphrase", "systematic")
"""Kinds of compositions that a source may keep out of training; ``iid`` keeps nothing out."""

RELATION_MARGIN = 0.15
RELATION_RATIO = 1.5
_COLOURS, _BACKGROUNDS = tuple(COLOURS), tuple(BACKGROUNDS)
_TRIES = 1000


def sample_scene(
    world: ShapesWorld, seed: int, split: str, index: int, holdout: str = "iid"
) -> Scene:
    """Draws scene ``index`` of a split.

    Args:
        world: levels, shapes, sizes and gaps.
        seed: of the data set, not of training.
        split: every split is its own stream; ``test_heldout`` draws held-out scenes only.
        index: position in the split; scenes do not depend on one another.
        holdout: one of ``HOLDOUTS``.

    Raises:
        ConfigError: the hold-out needs content that the world's levels do not have.
    """
    check_holdout(world, holdout)
    stream = np.random.Philox(key=derive_seed("shapes", seed, split, index))
    rng = np.random.Generator(stream)
    wanted = split == "test_heldout" and holdout not in ("iid", "paraphrase")
    for _ in range(_TRIES):
        scene = _draw(world, rng)
        if holds_out(world, holdout, scene) == wanted:
            return scene
    raise AssertionError(f"no scene in {_TRIES} draws for {holdout} at {world.level}")


def check_holdout(world: ShapesWorld, holdout: str) -> None:
    """Raises ConfigError where a hold-out is unknown or has no meaning at the world's levels."""
    if holdout not in HOLDOUTS:
        raise ConfigError(f"data.holdout={holdout!r} is not one of {', '.join(HOLDOUTS)}.")
    levels = set(world.levels)
    if holdout == "count" and not levels & {"L3", "L4"}:
        raise ConfigError(f"data.holdout=count needs level L3 or L4, not {world.level}.")
    if holdout == "relation" and not levels & {"L2", "L4"}:
        raise ConfigError(f"data.holdout=relation needs level L2 or L4, not {world.level}.")
    if holdout == "systematic" and not ("L1" in levels and levels & {"L2", "L3", "L4"}):
        raise ConfigError(
            f"data.holdout=systematic needs L1 and a higher level ('L1+L2'), not {world.level}."
        )


def holds_out(world: ShapesWorld, holdout: str, scene: Scene) -> bool:
    """True where a scene holds a composition that ``holdout`` keeps out of training.

    shape-colour: a Latin square of one colour a shape (1 in 8); size-colour: one size of half
    of the colours; count: the world's largest count; relation: 1 in 8 of the cells
    (first shape, axis, second shape); systematic: the world's last two shapes beside any
    other object. Each primitive alone stays in training.
    """
    if holdout == "shape-colour":
        return any(
            (world.shapes.index(item.shape) + 3) % 8 == _COLOURS.index(item.colour)
            for item in scene.objects
        )
    if holdout == "size-colour":
        cells = {("small", 1), ("small", 5), ("large", 3), ("large", 7)}
        return any((item.size, _COLOURS.index(item.colour)) in cells for item in scene.objects)
    if holdout == "count":
        return len(scene.objects) == world.max_count
    if holdout == "relation":
        return scene.relation is not None and _is_relation_cell(world, scene)
    if holdout == "systematic":
        kept = world.shapes[-2:]
        return len(scene.objects) > 1 and any(item.shape in kept for item in scene.objects)
    return False


def _is_relation_cell(world: ShapesWorld, scene: Scene) -> bool:
    """Picks one in eight of (first shape, axis, second shape), left to right or top to bottom."""
    if scene.relation is None:
        return False
    subject, relation, other = scene.relation
    axis = 0 if relation in ("left", "right") else 1
    if relation in ("right", "below"):
        subject, other = other, subject
    first = world.shapes.index(scene.objects[subject].shape)
    second = world.shapes.index(scene.objects[other].shape)
    return (first + 3 * second + 4 * axis) % 8 == 0


def relation_of(one: SceneObject, other: SceneObject) -> str | None:
    """The relation of ``one`` to ``other`` where it is beyond doubt, else None.

    The distance along the axis is at least 0.15 of the image and 1.5 times the other axis's.
    """
    dx, dy = one.x - other.x, one.y - other.y
    if abs(dx) >= RELATION_MARGIN and abs(dx) >= RELATION_RATIO * abs(dy):
        return "left" if dx < 0 else "right"
    if abs(dy) >= RELATION_MARGIN and abs(dy) >= RELATION_RATIO * abs(dx):
        return "above" if dy < 0 else "below"
    return None


def _pick(rng: np.random.Generator, count: int) -> int:
    """A uniform index, from ``random`` alone: its stream is stable over numpy versions."""
    return int(rng.random() * count)


def _draw(world: ShapesWorld, rng: np.random.Generator) -> Scene:
    """One scene of one of the world's levels, hold-outs not considered."""
    level = world.levels[_pick(rng, len(world.levels))]
    content = ("L2", "L3")[_pick(rng, 2)] if level == "L4" else level
    backdrop = _draw_backdrop(rng, level)
    if content == "L1":
        return Scene(level, _place(world, rng, [_draw_kind(world, rng)], False), backdrop)
    if content == "L2":
        kinds = _draw_distinct(world, rng, 2)
        objects = _place(world, rng, kinds, True)
        relation = relation_of(objects[0], objects[1])
        assert relation in RELATIONS
        link: Relation = (0, relation, 1)
        return Scene(level, objects, backdrop, link)
    total = 1 + _pick(rng, world.max_count)
    groups = _draw_distinct(world, rng, 1 + _pick(rng, min(2, total)))
    first = total if len(groups) == 1 else 1 + _pick(rng, total - 1)
    kinds = [groups[0]] * first + [groups[-1]] * (total - first)
    return Scene(level, _place(world, rng, kinds, False), backdrop)


Kind = tuple[str, str, str]


def _draw_kind(world: ShapesWorld, rng: np.random.Generator) -> Kind:
    return (
        world.shapes[_pick(rng, len(world.shapes))],
        _COLOURS[_pick(rng, len(_COLOURS))],
        SIZES[_pick(rng, len(SIZES))],
    )


def _draw_distinct(world: ShapesWorld, rng: np.random.Generator, count: int) -> list[Kind]:
    """Kinds that differ in shape or colour, so that a caption can tell them apart."""
    kinds: list[Kind] = []
    while len(kinds) < count:
        kind = _draw_kind(world, rng)
        if all(kind[:2] != other[:2] for other in kinds):
            kinds.append(kind)
    return kinds


def _draw_backdrop(rng: np.random.Generator, level: str) -> Backdrop:
    colour = _BACKGROUNDS[_pick(rng, len(_BACKGROUNDS))]
    if level != "L4":
        return Backdrop(colour)
    if _pick(rng, 2):
        angle = round(2 * math.pi * float(rng.random()), 4)
        amplitude = round(0.15 + 0.15 * float(rng.random()), 4)
        return Backdrop(colour, "gradient", angle=angle, amplitude=amplitude)
    phases = tuple(round(float(value), 4) for value in rng.random(12))
    amplitude = round(0.02 + 0.02 * float(rng.random()), 4)
    return Backdrop(colour, "texture", amplitude=amplitude, phases=phases)


def _place(
    world: ShapesWorld, rng: np.random.Generator, kinds: list[Kind], related: bool
) -> tuple[SceneObject, ...]:
    """Centres inside the image, apart from one another and, where asked, clearly related."""
    radii = np.array([world.radii[kind[2]] for kind in kinds])
    margin = 1.2 * radii
    low = margin[:, None]
    for attempt in range(_TRIES):
        centres = low + rng.random((16, len(kinds), 2)) * (1 - 2 * low)
        if attempt:
            centres = _push_apart(world, centres, radii, low)
        for candidate in np.round(centres, 4):
            objects = tuple(
                SceneObject(*kind, float(x), float(y), float(radius))
                for kind, (x, y), radius in zip(kinds, candidate, radii, strict=True)
            )
            apart = all(
                world.separated(one, other)
                for i, one in enumerate(objects)
                for other in objects[:i]
            )
            if apart and not (related and relation_of(objects[0], objects[1]) is None):
                return objects
    raise AssertionError(f"no room for {kinds} at {world.resolution} px")


def _push_apart(
    world: ShapesWorld,
    centres: Float[np.ndarray, "K n 2"],
    radii: Float[np.ndarray, " n"],
    low: Float[np.ndarray, "n 1"],
) -> Float[np.ndarray, "K n 2"]:
    """Moves too-near pairs apart for some rounds: crowded scenes are rare among free draws."""
    count = len(radii)
    wanted = np.array([[world.min_distance(a, b) for b in radii] for a in radii]) * 1.002
    np.fill_diagonal(wanted, 0.0)
    for _ in range(20):
        offset = centres[:, :, None] - centres[:, None]
        distance = np.sqrt((offset * offset).sum(-1)) + np.eye(count)
        # Two centres in one place have no direction apart: the draw stays crowded and is refused.
        missing = np.maximum(wanted - distance, 0.0) / np.maximum(distance, 1e-9)
        centres = centres + 0.6 * (missing[..., None] * offset).sum(2)
        centres = np.clip(centres, low, 1 - low)
    return centres
