import base64
import io

import numpy as np
import torch
from PIL import Image

from t2ibench.reporting.render.sheets import (
    comparison_sheet,
    contact_sheets,
    data_uri,
    sample_sets,
    tile,
)


def pixels_of(uri):
    raw = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(raw)))


def test_sheets_show_the_same_prompts_and_true_pixels(leaderboard):
    sheet = comparison_sheet(sample_sets(leaderboard), rows=5)
    assert sheet.labels == ("gan_int_cls", "ldm", "vqgan_gpt") and len(sheet.captions) == 5
    samples = next(g for g in leaderboard.groups if g.label == "ldm").runs[0].samples()
    assert sheet.captions == samples.captions[:5]
    expected = samples.pixels[3].permute(1, 2, 0).numpy()
    np.testing.assert_array_equal(pixels_of(sheet.images[3][1]), expected)


def test_large_images_are_reduced_and_small_ones_are_not():
    assert pixels_of(data_uri(np.zeros((3, 300, 300), np.uint8))).shape == (128, 128, 3)
    assert pixels_of(data_uri(np.zeros((3, 32, 32), np.uint8))).shape == (32, 32, 3)


def test_tiles_lie_in_reading_order():
    pixels = torch.arange(5, dtype=torch.uint8).view(5, 1, 1, 1).expand(5, 3, 4, 4)
    grid = tile(pixels, columns=3)
    assert grid.shape == (3, 10, 16)
    assert [grid[0, 0, 0], grid[0, 0, 6], grid[0, 0, 12], grid[0, 6, 0], grid[0, 6, 6]] == list(
        range(5)
    )
    assert grid[0, 6, 12] == 255


def test_contact_sheets_of_every_model(leaderboard):
    sheets = contact_sheets(sample_sets(leaderboard), 20, columns=10)
    assert [sheet.label for sheet in sheets] == ["gan_int_cls", "ldm", "vqgan_gpt"]
    assert pixels_of(sheets[0].image).shape == (66, 338, 3) and sheets[0].width == 338
