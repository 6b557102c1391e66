"""Sheets of ``t2ibench sample``: the images of one command a value, in one figure."""

import numpy as np
import pytest
from by_words import FEW, trained
from PIL import Image

from t2ibench.cli.columns import parse_columns
from t2ibench.cli.main import main
from t2ibench.cli.verbs.sample import DEFAULTS, EDIT_OPTIONS, LISTS
from t2ibench.core.errors import ConfigError

PROMPTS = ["a large red ring", "a small blue moon"]
OPTIONS = DEFAULTS | dict.fromkeys(EDIT_OPTIONS, "")


@pytest.fixture(scope="module")
def gan(tmp_path_factory, shared_cache):
    """A few steps of a GAN: its folder."""
    kept = [w for w in FEW if not w.startswith(("model=", "knobs.", "budget.first_stage"))]
    root = tmp_path_factory.mktemp("sheet") / "runs"
    words = ["model=gan/fast_painter", *kept, f"paths.runs={root}", f"paths.cache={shared_cache}"]
    return trained(words).run.path


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A picture of noise, of another size than the model's, and a mask of its left half."""
    folder = tmp_path_factory.mktemp("pictures")
    pixels = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "photo.png")
    mask = np.zeros((48, 40), np.uint8)
    mask[:, :20] = 255
    Image.fromarray(mask).save(folder / "mask.png")
    return folder


def cells(path, count, columns):
    """The images of a sheet at 32 px, row by row: found by the frames around them."""
    sheet = np.asarray(Image.open(path))
    frame = (sheet == 205).all(-1)
    tops, lefts = (np.flatnonzero(frame.sum(axis) >= 128) for axis in (1, 0))
    found = [sheet[y + 1 : y + 129 : 4, x + 1 : x + 129 : 4] for y in tops[::2] for x in lefts[::2]]
    assert len(found) == count and len(lefts) == 2 * columns
    return np.stack(found)


def drawn(run, out, *words):
    """Images of one command, as it writes them."""
    assert main(["sample", str(run), *words, f"out={out}"]) == 0
    return [np.asarray(Image.open(path)) for path in sorted(out.glob("*.png"))]


def check(run, tmp_path, name, values, *words, inputs=0):
    """The sheet of a list has the images of the commands of its values; returns its inputs."""
    path = tmp_path / "sheet.png"
    listed = f"{name}={','.join(values)}"
    assert main(["sample", str(run), *words, listed, f"sheet={path}"]) == 0
    single = [drawn(run, tmp_path / v, *words, f"{name}={v}") for v in values]
    rows, columns = len(single[0]), inputs + len(values)
    grid = cells(path, rows * columns, columns).reshape(rows, columns, 32, 32, 3)
    for column, images in enumerate(single):
        np.testing.assert_array_equal(grid[:, inputs + column], images)
    assert any((a != b).any() for a, b in zip(single[0], single[-1], strict=True))
    return grid[:, :inputs]


def test_a_sheet_has_the_images_of_one_command_a_value(gan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    check(gan, tmp_path, "knobs.truncation_psi", ["0.25", "1"], *PROMPTS, "images_per_prompt=2")
    assert not (tmp_path / "samples").exists(), "a sheet alone writes no images"


def test_pictures_that_are_given_stand_first(gan, tmp_path, pictures):
    words = [*PROMPTS, "edit=inpainting", "knobs.inversion_steps=2"]
    words += [f"image={pictures / 'photo.png'}", f"mask={pictures / 'mask.png'}"]
    given = check(gan, tmp_path, "seed", ["0", "7"], *words, inputs=2)
    assert (given[0] == given[1]).all()
    image, mask = given[0]
    assert (mask[:, :16] == 255).all() and not mask[:, 16:].any()
    painted = np.asarray(Image.open(next((tmp_path / "0").glob("*.png"))))
    assert (painted[:, 16:] == image[:, 16:]).all()


def test_another_family_has_the_same_sheets(whole, tmp_path, pictures):
    words = ["edit=img2img", f"image={pictures / 'photo.png'}", "knobs.num_steps=2"]
    given = check(whole, tmp_path, "strength", ["0", "1"], *PROMPTS, *words, inputs=1)
    assert (given[0] == given[1]).all()


def test_with_out_the_images_are_written_too(gan, tmp_path, capsys):
    words = [PROMPTS[0], "seed=0,3", f"sheet={tmp_path / 's.png'}", f"out={tmp_path / 'out'}"]
    assert main(["sample", str(gan), *words]) == 0
    assert "2 images in " in capsys.readouterr().out
    written = [Image.open(next((tmp_path / "out" / f"seed_{s}").glob("*.png"))) for s in (0, 3)]
    np.testing.assert_array_equal(cells(tmp_path / "s.png", 2, 2), np.stack(written))
    one = [PROMPTS[0], f"sheet={tmp_path / 'one.png'}", f"out={tmp_path / 'one'}"]
    assert main(["sample", str(gan), *one]) == 0
    assert len(list((tmp_path / "one").glob("*.png"))) == 1
    assert len(cells(tmp_path / "one.png", 1, 1)) == 1


WRONG = {
    "two lists": (["seed=0,1", "knobs.x=1,2"], "seed and knobs.x are lists; .* columns of one"),
    "not a number": (["seed=0,red"], "seed=red must be a number"),
    "an empty value": (["knobs.x=1,"], "knobs.x= must be a number"),
    "not a whole seed": (["seed=0,0.5"], "seed=0.5 must be a whole number"),
}


@pytest.mark.parametrize("case", WRONG)
def test_a_wrong_list_is_one_sentence(case, tmp_path, capsys):
    words, told = WRONG[case]
    assert main(["sample", "nowhere", "a ring", *words, f"sheet={tmp_path / 's.png'}"]) == 2
    with pytest.raises(ConfigError, match=told):
        raise ConfigError(capsys.readouterr().err)


def test_what_cannot_be_a_sheet_is_refused_before_the_run_is_read(tmp_path, capsys):
    for words, told in {
        ("seed=0,1",): "seed is a list, whose values are the columns of a sheet; add sheet=",
        ("seed=0,1", "sheet=s.jpg"): "sheet=s.jpg must be a file that ends in .png",
        ("images_per_prompt=101", "sheet=s.png"): "101 rows; it has at most 100",
        ("attention=a.png", "sheet=s.png"): "without edit=, size= and sheet=",
        ("switch=0,1", "sheet=s.png"): "switch= is for edit=",
    }.items():
        assert main(["sample", "nowhere", "a ring", *words]) == 2
        assert told in capsys.readouterr().err


def test_a_value_out_of_range_is_refused_before_any_image_is_made(gan, tmp_path, capsys):
    sheet = f"sheet={tmp_path / 's.png'}"
    for words, told in {
        ("knobs.truncation_psi=0.5,99",): "knobs.truncation_psi=99.0 is outside",
        ("knobs.telepathy=0,1",): "knobs.telepathy is not a knob",
        ("edit=img2img", "image=nowhere.png", "strength=0.5,0.7"): "nowhere.png is not there",
        ("edit=interpolation", "with=a ring", "weight=0.5,7"): "weight=7.0 is outside [0, 1]",
    }.items():
        assert main(["sample", str(gan), "a ring", *words, sheet]) == 2
        said = capsys.readouterr().err
        assert told in said and "images in" not in said
    assert not list(tmp_path.iterdir())


def test_a_list_becomes_one_command_a_value():
    columns = parse_columns(
        "sample", ["RUN", "a ring, red", "seed=0,3,0", "--", "seed=5,6"], OPTIONS, LISTS
    )
    assert [(c.name, c.value, c.asked.options["seed"]) for c in columns] == [
        ("seed", "0", "0"),
        ("seed", "3", "3"),
    ]
    assert columns[0].asked.words == ["RUN", "a ring, red", "seed=5,6"]
    sides = ["RUN", "sides=8,8,0,0", "with=a ring, red", "seed=0,1", "seed=2"]
    (alone,) = parse_columns("sample", sides, OPTIONS, LISTS)
    assert (alone.name, alone.asked.options["seed"]) == ("", "2")
