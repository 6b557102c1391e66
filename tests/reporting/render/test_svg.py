import xml.etree.ElementTree as ET

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from t2ibench.reporting.render.axis import axis, linear_ticks, tick_text
from t2ibench.reporting.render.charts import all_charts
from t2ibench.reporting.render.svg import draw


def test_every_chart_is_well_formed_and_inside_its_box(leaderboard):
    for chart in all_charts(leaderboard):
        root = ET.fromstring(draw(chart))
        assert root.get("role") == "img" and len(root.get("aria-label")) > len(chart.title) + 10
        _, _, width, height = map(float, root.get("viewBox").split())
        for mark in root.iter("polygon"):
            corners = [tuple(map(float, c.split(","))) for c in mark.get("points").split()]
            assert all(0 <= x <= width and 0 <= y <= height for x, y in corners)


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e6))
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
