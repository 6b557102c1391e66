"""The grader on ground truth, on damaged ground truth, and on what is not a shape."""

import numpy as np
import pytest
import torch

from t2ibench.core.errors import ScoreError
from t2ibench.data.shapes.captions import meaning_of
from t2ibench.data.shapes.render import render
from t2ibench.data.shapes.scenes import sample_scene
from t2ibench.data.shapes.world import (
    COLOURS,
    Backdrop,
    ObjectPhrase,
    Parse,
    Scene,
    SceneObject,
    ShapesWorld,
)
from t2ibench.metrics.grader import Grader, Seen
from t2ibench.metrics.grader_calibration import accept_threshold, damage, random_blobs
from t2ibench.metrics.grader_columns import grade_image
from t2ibench.metrics.grader_signal import to_lab


@pytest.fixture(scope="module", params=[32, 64])
def grader(request):
    torch.set_num_threads(1)
    return Grader(ShapesWorld("L1", request.param), request.param)


@pytest.fixture(scope="module")
def grader32():
    return Grader(ShapesWorld("L1", 32), 32)


def renders(level, resolution, count):
    world = ShapesWorld(level, resolution)
    scenes = [sample_scene(world, 7, "grader", i) for i in range(count)]
    return scenes, np.stack([render(scene, resolution) for scene in scenes])


def picture(*objects, backdrop="white"):
    scene = Scene("L3", tuple(objects), Backdrop(backdrop))
    return torch.from_numpy(render(scene, 32))[None]


CIRCLE = SceneObject("circle", "red", "large", 0.3, 0.3, 0.19)
SQUARE = SceneObject("square", "blue", "small", 0.75, 0.7, 0.135)
ASK_BOTH = Parse(
    (ObjectPhrase("circle", "red", "large"), ObjectPhrase("square", "blue", "small")),
    (0, "left", 1),
    "white",
)


@pytest.mark.parametrize("level", ["L1", "L2", "L3"])
def test_clean_renders_are_graded_without_error(grader, level):
    scenes, pixels = renders(level, grader.resolution, 100)
    table = grader.grade(torch.from_numpy(pixels), [meaning_of(scene) for scene in scenes])
    for name, value in table.summary().items():
        assert value == 1.0, f"{name} is {value}"


@pytest.mark.parametrize("name", ["noise-0.05", "blur-1.0", "jpeg-75", "vq-like"])
@pytest.mark.parametrize("level", ["L2", "L3"])
def test_mild_damage_costs_at_most_five_percent(grader, level, name):
    scenes, pixels = renders(level, grader.resolution, 100)
    images = torch.from_numpy(damage(pixels, name))
    table = grader.grade(images, [meaning_of(scene) for scene in scenes])
    assert table.summary()["exact"] >= 0.95


def test_shaded_and_textured_backgrounds_are_seen_through(grader):
    scenes, pixels = renders("L4", grader.resolution, 100)
    table = grader.grade(torch.from_numpy(pixels), [meaning_of(scene) for scene in scenes])
    assert table.summary()["exact"] >= 0.99
    assert table.summary()["background"] >= 0.98


def test_places_and_radii_are_measured_to_a_fraction_of_a_pixel(grader):
    scenes, pixels = renders("L1", grader.resolution, 60)
    found = [objects[0] for objects in grader.detect(torch.from_numpy(pixels))]
    truth = [scene.objects[0] for scene in scenes]
    off = np.array(
        [(a.x - b.x, a.y - b.y, a.radius - b.radius) for a, b in zip(found, truth, strict=True)]
    )
    assert np.quantile(np.abs(off) * grader.resolution, 0.98) < 0.5
    assert max(item.delta_e for item in found) < 5.0


def test_blobs_are_rarely_taken_for_shapes_and_noise_never(grader):
    radii = (min(grader.world.radii.values()), max(grader.world.radii.values()))
    blobs = random_blobs(200, grader.resolution, radii, list(COLOURS.values()))
    shapes = [item.shape for found in grader.detect(torch.from_numpy(blobs)) for item in found]
    accepted = [shape for shape in shapes if shape]
    assert len(accepted) / 200 < 0.25
    assert sum(shape != "circle" for shape in accepted) / 200 < 0.10
    generator = torch.Generator().manual_seed(0)
    size = (20, 3, grader.resolution, grader.resolution)
    noise = torch.randint(0, 256, size, dtype=torch.uint8, generator=generator)
    assert not any(seen.valid or seen.objects for seen in grader.see(noise))


def test_empty_images_have_no_objects(grader32):
    flat = torch.full((2, 3, 32, 32), 255, dtype=torch.uint8)
    assert grader32.detect(flat) == [[], []]
    table = grader32.grade(flat, [ASK_BOTH, ASK_BOTH])
    assert table["shape"].tolist() == [0.0, 0.0] and table["exact"].tolist() == [0.0, 0.0]
    assert table["background"].tolist() == [1.0, 1.0]


def test_an_unknown_shape_still_has_a_colour(grader32):
    image = torch.full((1, 3, 32, 32), 255, dtype=torch.uint8)
    green = torch.tensor([round(255 * c) for c in COLOURS["green"]], dtype=torch.uint8)
    image[0, :, 5:27, 12:16] = green[:, None, None]
    image[0, :, 22:27, 12:24] = green[:, None, None]
    table = grader32.grade(image, [Parse((ObjectPhrase("circle", "green"),))])
    assert table["colour"][0] == 1.0
    assert table["shape"][0] == 0.0 and table["binding"][0] == 0.0 and table["exact"][0] == 0.0
    assert grader32.detect(image)[0][0].shape is None


@pytest.mark.parametrize(
    ("objects", "expected"),
    [
        ((CIRCLE, SQUARE), dict(exact=1, count=1, binding=1, relation=1, shape=1, colour=1)),
        ((CIRCLE,), dict(exact=0, count=0, binding=0.5, relation=0, shape=0.5, presence=0.5)),
        (
            (
                SceneObject("circle", "blue", "large", 0.3, 0.3, 0.19),
                SceneObject("square", "red", "small", 0.75, 0.7, 0.135),
            ),
            dict(exact=0, count=1, binding=0, relation=0, presence=1, shape=1, colour=0),
        ),
        (
            (
                SceneObject("circle", "red", "large", 0.7, 0.7, 0.19),
                SceneObject("square", "blue", "small", 0.25, 0.3, 0.135),
            ),
            dict(exact=0, count=1, binding=1, relation=0, shape=1, colour=1, size=1),
        ),
    ],
)
def test_columns_say_what_went_wrong(grader32, objects, expected):
    table = grader32.grade(picture(*objects), [ASK_BOTH])
    assert {name: table[name][0] for name in expected} == expected


def test_scattering_objects_does_not_pay(grader32):
    image = picture(CIRCLE, SceneObject("square", "blue", "small", 0.75, 0.7, 0.135))
    table = grader32.grade(image, [Parse((ObjectPhrase("square", "blue"),))])
    assert table["shape"][0] == 0.0 and table["colour"][0] == 0.0 and table["count"][0] == 0.0


def test_columns_that_are_not_asked_are_nan_and_leave_the_summary(grader32):
    table = grader32.grade(picture(CIRCLE), [Parse((ObjectPhrase("circle"),))])
    assert np.isnan([table[n][0] for n in ("colour", "relation", "background", "size")]).all()
    assert table["exact"][0] == 1.0
    assert "relation" not in table.summary()
    asked = grader32.grade(
        torch.cat([picture(CIRCLE)] * 2), [Parse((ObjectPhrase("circle"),)), ASK_BOTH]
    )
    assert len(asked) == 2 and asked.summary()["relation"] == 0.0


def test_grades_do_not_depend_on_the_batch(grader32):
    scenes, pixels = renders("L2", 32, 12)
    images = torch.from_numpy(damage(pixels, "noise-0.05"))
    alone = [grader32.detect(images[i : i + 1])[0] for i in range(len(images))]
    for single, batched in zip(alone, grader32.detect(images), strict=True):
        assert [(d.shape, d.colour) for d in single] == [(d.shape, d.colour) for d in batched]
        np.testing.assert_allclose([d.fit for d in single], [d.fit for d in batched], atol=1e-4)
    assert len(scenes) == 12


def test_misuse_is_named(grader32):
    with pytest.raises(ScoreError, match="32 px"):
        grader32.see(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
    with pytest.raises(ScoreError, match="1 images for 2 prompts"):
        grader32.grade(picture(CIRCLE), [ASK_BOTH, ASK_BOTH])
    with pytest.raises(ScoreError, match="no damage"):
        damage(np.zeros((1, 3, 32, 32), np.uint8), "scratch")


def test_threshold_rule_accepts_the_wanted_share_of_every_damage():
    fits = {"clean": np.linspace(0.97, 1.0, 1001), "jpeg": np.linspace(0.9, 1.0, 1001)}
    threshold = accept_threshold({name: list(v) for name, v in fits.items()}, 0.98)
    assert all((values >= threshold).mean() >= 0.98 for values in fits.values())
    assert (fits["jpeg"] >= threshold + 0.005).mean() < 0.98


def test_invalid_images_grade_zero():
    row = dict(
        zip(
            ("valid", "presence", "count", "colour", "shape", "size", "binding", "relation"),
            grade_image(Seen((), "white", False), ASK_BOTH),
            strict=False,
        )
    )
    assert set(row.values()) == {0.0}


def test_lab_of_known_colours():
    lab = to_lab(np.array([[1.0, 1.0, 1.0], [1.0, 0.0, 0.0], [0.0, 0.0, 0.0]]))
    known = [[100, 0, 0], [53.24, 80.09, 67.20], [0, 0, 0]]
    np.testing.assert_allclose(lab, known, atol=0.02)
