"""The world's promises: determinism, meaning, palette, separation, hold-outs."""

import itertools

import numpy as np
import pytest

from t2ibench.core.errors import ConfigError, DataError
from t2ibench.data.shapes.captions import canonical_caption, captions_of, parse, satisfies
from t2ibench.data.shapes.masks import SHAPE_TESTS, shape_masks, shape_patch
from t2ibench.data.shapes.render import render
from t2ibench.data.shapes.scenes import HOLDOUTS, holds_out, relation_of, sample_scene
from t2ibench.data.shapes.world import (
    BACKGROUNDS,
    COLOURS,
    OPPOSITE,
    Backdrop,
    ObjectPhrase,
    Parse,
    Scene,
    SceneObject,
    ShapesWorld,
    relation_holds,
)

WORLDS = [
    ShapesWorld(level, side)
    for level, side in itertools.product(("L1", "L2", "L3", "L4"), (32, 64))
]


def named(world):
    return f"{world.level}-{world.resolution}"


def test_every_colour_is_far_from_every_background():
    for colour, ground in itertools.product(COLOURS.values(), BACKGROUNDS.values()):
        assert np.linalg.norm(np.subtract(colour, ground)) >= 0.37


@pytest.mark.parametrize("world", WORLDS, ids=named)
def test_captions_mean_their_scene(world):
    for index in range(40):
        scene = sample_scene(world, 0, "train", index)
        for heldout in (False, True):
            captions = captions_of(scene, f"key-{index}", 6, heldout)
            assert all(satisfies(parse(caption), scene) for caption in captions), captions


@pytest.mark.parametrize("world", WORLDS, ids=named)
def test_a_caption_does_not_mean_a_changed_scene(world):
    for index in range(40):
        scene = sample_scene(world, 0, "val", index)
        meaning = parse(canonical_caption(scene))
        first, *rest = scene.objects
        other = next(c for c in COLOURS if c not in {item.colour for item in scene.objects})
        changed = {**first.__dict__, "colour": other}
        recoloured = Scene(scene.level, (SceneObject(**changed), *rest), scene.backdrop)
        fewer = Scene(scene.level, tuple(rest), scene.backdrop)
        ground = next(name for name in BACKGROUNDS if name != scene.backdrop.colour)
        moved = Scene(scene.level, scene.objects, Backdrop(ground))
        assert not any(satisfies(meaning, wrong) for wrong in (recoloured, fewer, moved))
        if scene.relation:
            one, two = scene.objects
            swapped = (
                SceneObject(**{**one.__dict__, "x": two.x, "y": two.y}),
                SceneObject(**{**two.__dict__, "x": one.x, "y": one.y}),
            )
            assert not satisfies(meaning, Scene(scene.level, swapped, scene.backdrop))


@pytest.mark.parametrize("world", WORLDS, ids=named)
def test_scenes_keep_their_distance_and_their_frame(world):
    for index in range(60):
        scene = sample_scene(world, 1, "train", index)
        for one, two in itertools.combinations(scene.objects, 2):
            assert world.separated(one, two)
        for item in scene.objects:
            assert item.radius <= item.x <= 1 - item.radius
            assert item.radius <= item.y <= 1 - item.radius
        if scene.relation:
            one, two = scene.objects
            assert relation_of(one, two) == scene.relation[1]
            assert relation_of(two, one) == OPPOSITE[scene.relation[1]]
            assert relation_holds(one.x - two.x, one.y - two.y, scene.relation[1])


def test_a_scene_depends_on_nothing_but_its_address():
    world = ShapesWorld("L2+L3", 32)
    np.random.seed(1)
    alone = sample_scene(world, 3, "train", 17)
    np.random.seed(2)
    in_order = [sample_scene(world, 3, "train", i) for i in range(18)]
    assert in_order[17] == alone
    assert sample_scene(world, 3, "test", 17) != alone
    assert sample_scene(world, 4, "train", 17) != alone
    assert Scene.from_dict(alone.to_dict()) == alone


@pytest.mark.parametrize(
    ("holdout", "level"),
    [
        ("shape-colour", "L1"),
        ("size-colour", "L1"),
        ("count", "L3"),
        ("relation", "L2"),
        ("systematic", "L1+L2"),
    ],
)
def test_heldout_compositions_never_train_and_their_parts_do(holdout, level):
    world = ShapesWorld(level, 32)
    train = [sample_scene(world, 0, "train", i, holdout) for i in range(400)]
    heldout = [sample_scene(world, 0, "test_heldout", i, holdout) for i in range(60)]
    assert not any(holds_out(world, holdout, scene) for scene in train)
    assert all(holds_out(world, holdout, scene) for scene in heldout)
    parts = {(i.shape, i.colour, i.size) for scene in train for i in scene.objects}
    assert {shape for shape, _, _ in parts} == set(world.shapes)
    assert {colour for _, colour, _ in parts} == set(COLOURS)


@pytest.mark.parametrize(
    ("holdout", "level"), [("count", "L1"), ("relation", "L1"), ("systematic", "L2"), ("x", "L1")]
)
def test_a_meaningless_holdout_is_refused(holdout, level):
    with pytest.raises(ConfigError, match="holdout"):
        sample_scene(ShapesWorld(level, 32), 0, "train", 0, holdout)
    assert "iid" in HOLDOUTS


def test_paraphrase_templates_are_disjoint():
    world = ShapesWorld("L1", 32)
    scenes = [sample_scene(world, 0, "train", i) for i in range(100)]
    trained = {c for i, s in enumerate(scenes) for c in captions_of(s, str(i), 5)}
    heldout = {c for i, s in enumerate(scenes) for c in captions_of(s, str(i), 5, heldout=True)}
    assert not trained & heldout


@pytest.mark.parametrize(
    ("caption", "meaning"),
    [
        ("a red circle", Parse((ObjectPhrase("circle", "red"),))),
        (
            "Three big green triangles, gray background",
            Parse((ObjectPhrase("triangle", "green", "large", 3),), None, "grey"),
        ),
        (
            "2 crosses and a tiny moon",
            Parse((ObjectPhrase("cross", None, None, 2), ObjectPhrase("moon", None, "small"))),
        ),
        (
            "a blue ring on the left side of a yellow heart",
            Parse((ObjectPhrase("ring", "blue"), ObjectPhrase("heart", "yellow")), (0, "left", 1)),
        ),
    ],
)
def test_parse_reads_free_wording(caption, meaning):
    assert parse(caption) == meaning
    assert Parse.from_dict(meaning.to_dict()) == meaning


@pytest.mark.parametrize("caption", ["a zebra", "a red background", "left of a red circle", ""])
def test_parse_refuses_what_it_cannot_mean(caption):
    with pytest.raises(DataError):
        parse(caption)


def test_a_cascades_base_draws_the_same_scenes_with_fewer_pixels():
    small, world = ShapesWorld("L1", 16), ShapesWorld("L1", 32)
    assert world.gradable and not small.gradable
    for index in range(10):
        scene = sample_scene(small, 0, "train", index)
        assert scene == sample_scene(world, 0, "train", index)
        large = render(scene, 32).astype(float)
        mean = large.reshape(3, 16, 2, 16, 2).mean((2, 4))
        assert np.abs(render(scene, 16) - mean).mean() < 2.0


def test_bad_worlds_are_refused():
    for level, side in (("L9", 32), ("L1+L1", 32), ("L1", 7), ("L1", 100_000)):
        with pytest.raises(ConfigError):
            ShapesWorld(level, side)


def shape_mask(shape, x, y, radius, size):
    """What the renderer paints of a shape, on a whole canvas."""
    canvas = np.zeros((size, size))
    rows, columns, coverage = shape_patch(shape, x, y, radius, size)
    canvas[rows, columns] = coverage
    return canvas


@pytest.mark.parametrize("shape", sorted(SHAPE_TESTS))
def test_masks_batch_and_shift(shape):
    one = shape_mask(shape, 16.3, 15.1, 6.0, 32)
    assert 0.2 < one.sum() / (np.pi * 36) < 1.2
    batched = shape_masks(
        shape, np.array([16.3, 17.3]), np.array([15.1, 15.1]), np.full(2, 6.0), 32
    )
    np.testing.assert_allclose(batched[0], one, atol=1 / 8)
    np.testing.assert_allclose(np.roll(batched[0], 1, axis=1), batched[1], atol=1 / 8)
    assert abs(batched[0] - one).mean() < 1e-3


def test_circle_area_is_right():
    assert shape_mask("circle", 32.0, 32.0, 20.0, 64).sum() == pytest.approx(np.pi * 400, rel=2e-3)


def test_render_paints_the_palette():
    scene = Scene("L1", (SceneObject("square", "red", "large", 0.5, 0.5, 0.19),), Backdrop("grey"))
    image = render(scene, 32)
    np.testing.assert_array_equal(image[:, 16, 16], np.rint(np.array(COLOURS["red"]) * 255))
    np.testing.assert_array_equal(image[:, 0, 0], np.rint(np.array(BACKGROUNDS["grey"]) * 255))
