"""The grid that sheets are drawn by: every pixel of the images, every word of the texts."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageFont

from t2ibench.core.errors import ConfigError
from t2ibench.reporting.render.grid import GAP, Row, check_png, draw_grid, wrapped, write_png

FONT = ImageFont.load_default(14)


def noise(side, seed=0):
    made = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (3, side, side), generator=made, dtype=torch.uint8)


def corner(sheet, cell, factor):
    """Left and top of the one place where the sheet has an image at a factor."""
    wanted = cell.permute(1, 2, 0).numpy().repeat(factor, 0).repeat(factor, 1)
    found = np.asarray(sheet)
    h, w, _ = wanted.shape
    starts = np.argwhere((found[: -h + 1, : -w + 1] == wanted[0, 0]).all(-1))
    places = [(x, y) for y, x in starts if (found[y : y + h, x : x + w] == wanted).all()]
    assert len(places) == 1, places
    return places[0]


def test_images_lie_in_rows_and_columns_with_all_their_pixels():
    cells = [[noise(32, seed=2 * row + column) for column in (0, 1)] for row in (0, 1)]
    sheet = draw_grid([Row(row, "a red ring", ["seed 0", "seed 1"]) for row in cells])
    places = [[corner(sheet, cell, 4) for cell in row] for row in cells]
    assert places[0][0][1] == places[0][1][1] < places[1][0][1]
    assert places[0][0][0] == places[1][0][0] == places[0][1][0] - 128 - GAP


def test_a_smaller_image_is_enlarged_by_its_own_whole_factor_in_the_middle_of_its_cell():
    small, large = noise(24), noise(100, 1)
    sheet = draw_grid([Row([small, large])])
    x, y = corner(sheet, large, 2)
    # 8 x 24 = 192 of the 200 pixels
    assert corner(sheet, small, 8) == (x - GAP - 200 + 4, y + 4)


def test_large_images_are_not_enlarged():
    sheet = draw_grid([Row([noise(256)])])
    assert sheet.size[0] < 300 and corner(sheet, noise(256), 1)


def test_a_row_grows_with_its_label():
    short, long = (draw_grid([Row([noise(32)], "word " * count)]) for count in (2, 100))
    assert long.height > short.height + 128
    corner(long, noise(32), 4)


@given(st.text(st.characters(codec="utf-8", exclude_categories=["C"])), st.integers(20, 200))
def test_wrapping_keeps_every_letter_within_the_width(text, width):
    lines = wrapped(text, FONT, width)
    assert "".join("".join(lines).split()) == "".join(text.split())
    assert all(FONT.getlength(line) <= width or len(line) == 1 for line in lines)


def test_a_figure_is_a_png_and_whole(tmp_path):
    for wrong in (tmp_path / "sheet.jpg", tmp_path):
        with pytest.raises(ConfigError, match=r"sheet=.* ends in \.png"):
            check_png("sheet", str(wrong))
    write_png(draw_grid([Row([noise(32)])]), tmp_path / "new" / "sheet.png")
    assert Image.open(tmp_path / "new" / "sheet.png").format == "PNG"
    assert len(list((tmp_path / "new").iterdir())) == 1
