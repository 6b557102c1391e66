import re
from importlib.resources import files

import pytest

from t2ibench.core.errors import ConfigError
from t2ibench.reporting import write_results
from t2ibench.reporting.render import figures
from t2ibench.reporting.render.chart import Chart, Point, Series
from t2ibench.reporting.render.charts import all_charts
from t2ibench.reporting.render.figures import PALETTE, write_figures


def text_of(path):
    """The words of a PDF of one page."""
    from pypdf import PdfReader

    (page,) = PdfReader(path).pages
    return re.sub(r"\s+", " ", page.extract_text())


@pytest.fixture(scope="module")
def written(leaderboard, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures")
    charts = all_charts(leaderboard)
    return charts, write_figures(charts, folder), folder


def test_every_chart_is_a_pdf_of_one_page_that_names_its_series(written):
    charts, paths, _ = written
    assert len(paths) == len(charts) == 10 and len(set(paths)) == 10
    for chart, path in zip(charts, paths, strict=True):
        text = text_of(path)
        assert chart.title in text and chart.x_title.split(" (")[0] in text
        if len(chart.series) > 1:
            assert all(series.name in text for series in chart.series)
        if chart.y_line is not None:
            assert chart.y_line[1] in text


def test_a_figure_draws_every_point_of_its_chart(tmp_path):
    """By the objects that matplotlib is given: positions, colours, error bars."""
    from matplotlib.figure import Figure

    points = (Point(1, 2.0, 1.5, 2.5, "a"), Point(10, 3.0), Point(float("nan"), 1.0))
    chart = Chart("t", "x", "y", (Series("m", 2, points),), x_log=True, y_line=(0.5, "floor"))
    axes = Figure(layout="constrained").add_subplot()
    figures._draw(chart, axes)
    line, *_ = axes.lines
    assert line.get_xydata().tolist() == [[1, 2], [10, 3]]
    assert line.get_color() == PALETTE[2] and line.get_label() == "m"
    (bar,) = axes.collections
    assert bar.get_segments()[0].tolist() == [[1, 1.5], [1, 2.5]]
    assert axes.get_xscale() == "log"
    assert {"floor", "a"} <= {text.get_text() for text in axes.texts}


def test_the_same_charts_give_the_same_bytes(written, tmp_path):
    charts, paths, _ = written
    again = write_figures(charts[:2], tmp_path)
    assert [p.read_bytes() for p in again] == [p.read_bytes() for p in paths[:2]]


def test_colours_are_those_of_the_page():
    style = (files("t2ibench.reporting.render") / "page.css").read_text(encoding="utf-8")
    light = style.split("@media")[0]
    assert tuple(re.search(rf"--s{i}: (#\w+)", light)[1] for i in range(8)) == PALETTE


def test_without_matplotlib_the_other_formats_are_written(analysis, tmp_path, monkeypatch):
    from t2ibench.reporting.render import results

    monkeypatch.setattr(results, "can_draw_figures", lambda: False)
    names = {path.name for path in write_results(analysis, tmp_path, "title")}
    assert "leaderboard.html" in names and not (tmp_path / "figures").exists()
    monkeypatch.setattr(figures, "can_draw_figures", lambda: False)
    with pytest.raises(ConfigError, match=r"pip install \"t2ibench\[figures\]\""):
        write_figures([], tmp_path)
