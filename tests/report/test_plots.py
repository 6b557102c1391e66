import base64
import io
import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from run_folders import KEYS, write_run

from t2ibench.evaluation.results import RunScores
from t2ibench.report.folders import read_run
from t2ibench.report.holes import gather
from t2ibench.report.plots import binned, cost_charts, curve_charts, front_charts, size_charts
from t2ibench.report.sheets import comparison_sheet, contact_sheets, data_uri, tile
from t2ibench.report.svg import axis, draw, linear_ticks, tick_text
from t2ibench.report.tables import leaderboard


@pytest.fixture(scope="module")
def board(study):
    return leaderboard(gather(study)[0])


def test_fronts_follow_each_knob(board):
    charts = front_charts(board)
    assert [c.title for c in charts] == [
        "FD against CLIP-score",
        "FD against Exact",
        "Precision against Recall",
    ]
    ldm = next(s for s in charts[0].series if s.name == "ldm")
    front = next(g for g in board.groups if g.label == "ldm").runs[0].scores.front
    x_key = next(k for k in front[0].scores if k.startswith("clip_score"))
    assert [p.x for p in ldm.points] == [point.scores[x_key].value for point in front]
    assert [p.label for p in ldm.points] == ["1", "", "", "5"]
    assert [p.strong for p in ldm.points] == [False, False, True, False]


def test_costs_are_drawn_against_the_floor(board):
    charts = cost_charts(board)
    assert len(charts) == 4 and all(chart.x_log for chart in charts)
    assert charts[0].y_line == (21.0, "real vs real")
    assert {s.name: s.points[0].x for s in charts[0].series}["gan_int_cls"] == 0.003


def test_learning_curves_draw_each_seed(board):
    charts = {c.title: c for c in curve_charts(board)}
    assert [s.name for s in charts["ldm"].series] == ["seed 0", "seed 1", "seed 2"]
    assert charts["gan_int_cls"].series[0].points[-1].x == 120 * 512


def test_every_chart_is_well_formed_and_inside_its_box(board):
    for chart in [*front_charts(board), *cost_charts(board), *curve_charts(board)]:
        root = ET.fromstring(draw(chart))
        assert root.get("role") == "img" and len(root.get("aria-label")) > len(chart.title) + 10
        _, _, width, height = map(float, root.get("viewBox").split())
        for mark in root.iter("polygon"):
            corners = [tuple(map(float, c.split(","))) for c in mark.get("points").split()]
            assert all(0 <= x <= width and 0 <= y <= height for x, y in corners)


@given(
    st.floats(-1e6, 1e6), st.floats(1e-3, 1e6)
)  # fmt: skip
def test_linear_ticks_are_round_and_inside(low, span):
    ticks = linear_ticks(low, low + span)
    assert 2 <= len(ticks) <= 11
    assert all(low - 1e-6 * span <= t <= low + span * (1 + 1e-6) for t in ticks)
    assert np.allclose(np.diff(ticks), ticks[1] - ticks[0])


@given(st.lists(st.floats(1e-9, 1e18), min_size=1, max_size=9))
def test_log_axes_hold_every_value_and_have_ticks(values):
    found = axis(values, 0, 100, log=True)
    assert 1 <= len(found.ticks()) <= 5
    pixels = [found(v) for v in sorted(values)]
    assert pixels == sorted(pixels) and pixels[0] > 0 and pixels[-1] < 100


def test_tick_texts():
    assert [tick_text(v) for v in (0, 0.5, 2500, 20000, 3e6, 1e12, 1e16, 2e-5)] == [
        "0", "0.5", "2500", "20k", "3M", "1T", "1e16", "2e-5",
    ]  # fmt: skip


def test_bins_average_and_drop_gaps():
    points = binned([1, 2, 3, 4, 5], [1.0, 3.0, math.nan, 5.0, 7.0], 2)
    assert [(p.x, p.y) for p in points] == [(2, 2.0), (5, 6.0)]


def pixels_of(uri):
    raw = base64.b64decode(uri.removeprefix("data:image/png;base64,"))
    return np.asarray(Image.open(io.BytesIO(raw)))


def test_sheets_show_the_same_prompts_and_true_pixels(board):
    sheet = comparison_sheet(board, rows=5)
    assert sheet.labels == ("gan_int_cls", "ldm", "vqgan_gpt") and len(sheet.captions) == 5
    samples = next(g for g in board.groups if g.label == "ldm").runs[0].samples()
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


def test_contact_sheets_of_every_model(board):
    sheets = contact_sheets(board, 20, columns=10)
    assert [label for label, _, _ in sheets] == ["gan_int_cls", "ldm", "vqgan_gpt"]
    assert pixels_of(sheets[0][1]).shape == (66, 338, 3) and sheets[0][2] == 338


def test_swept_steps_are_lines_of_their_own(tmp_path):
    """The lines share the model's colour; only the chosen steps hold the chosen point."""
    run = write_run(tmp_path, "diffusion/ldm", 0)
    scores = RunScores.read(run / "scores.json")

    def at(point, steps):
        return replace(point, knobs={**point.knobs, "num_steps": steps})

    front = tuple(at(point, steps) for steps in (5.0, 20.0) for point in scores.front)
    replace(scores, front=front, chosen=at(scores.chosen, 20.0)).write(run / "scores.json")
    for chart in front_charts(leaderboard(gather([run])[0])):
        names = [series.name for series in chart.series]
        assert names == ["ldm, 5 steps", "ldm, 20 steps"]
        assert len({series.colour for series in chart.series}) == 1
        strong = [sum(point.strong for point in series.points) for series in chart.series]
        assert strong == [0, 1]


def test_sizes_are_drawn_against_one_over_n(tmp_path):
    runs = []
    for model, slope in (("gan/gan_int_cls", 9000), ("diffusion/ldm", 3000)):
        path = write_run(tmp_path, model, 0)
        curve = [{"n": n, "value": 20 + slope / n, "sd": 1.0} for n in (200, 400, 2000)]
        scores = RunScores.read(path / "scores.json")
        replace(scores, size_curves={KEYS["fd"]: curve}).write(path / "scores.json")
        runs.append(read_run(path))
    (chart,) = size_charts(leaderboard(runs))
    assert "by number of images" in chart.title
    drawn = {s.name: [(p.x, p.y) for p in s.points] for s in chart.series}
    assert drawn["gan_int_cls"] == [(5.0, 65.0), (2.5, 42.5), (0.5, 24.5)]
    assert drawn["ldm"] == [(5.0, 35.0), (2.5, 27.5), (0.5, 21.5)]


def test_without_sizes_there_is_no_such_chart(tmp_path):
    assert size_charts(leaderboard([read_run(write_run(tmp_path, "diffusion/ldm", 0))])) == []
