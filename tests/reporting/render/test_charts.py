import math
from dataclasses import replace

import numpy as np
import pytest
from run_folders import KEYS, rewritten, write_run

from t2ibench.evaluation.results import RunScores
from t2ibench.reporting import analyse, chart_pages, gather, read_run
from t2ibench.reporting.render.charts import (
    binned,
    cost_charts,
    curve_charts,
    front_charts,
    size_charts,
)
from t2ibench.reporting.statistics.leaderboard import build_leaderboard


def test_fronts_follow_each_knob(leaderboard):
    charts = front_charts(leaderboard)
    assert [c.title for c in charts] == [
        "FD against CLIP-score",
        "FD against Exact",
        "Precision against Recall",
    ]
    ldm = next(s for s in charts[0].series if s.name == "ldm")
    runs = next(g for g in leaderboard.groups if g.label == "ldm").runs
    fronts = list(zip(*(run.scores.front for run in runs), strict=True))
    x_key = next(k for k in fronts[0][0].scores if k.startswith("clip_score"))
    means = [np.mean([point.scores[x_key].value for point in points]) for points in fronts]
    assert [p.x for p in ldm.points] == pytest.approx(means)
    assert [p.label for p in ldm.points] == ["1", "", "", "5"]
    assert [p.strong for p in ldm.points] == [False, False, True, False]


def test_costs_are_drawn_against_the_floor(leaderboard):
    charts = cost_charts(leaderboard)
    assert len(charts) == 4 and all(chart.x_log for chart in charts)
    assert charts[0].y_line == (21.0, "real vs real")
    assert {s.name: s.points[0].x for s in charts[0].series}["gan_int_cls"] == 0.003


def test_learning_curves_draw_each_seed(leaderboard):
    charts = {c.title: c for c in curve_charts(leaderboard)}
    assert [s.name for s in charts["ldm"].series] == ["seed 0", "seed 1", "seed 2"]
    assert charts["gan_int_cls"].series[0].points[-1].x == 120 * 512


def test_bins_average_and_drop_gaps():
    points = binned([1, 2, 3, 4, 5], [1.0, 3.0, math.nan, 5.0, 7.0], 2)
    assert [(p.x, p.y) for p in points] == [(2, 2.0), (5, 6.0)]


def test_swept_steps_are_lines_of_their_own(tmp_path):
    """The lines share the model's colour; only the chosen steps hold the chosen point."""
    run = write_run(tmp_path, "diffusion/ldm", 0)
    scores = RunScores.read(run / "scores.json")

    def at(point, steps):
        return replace(point, knobs={**point.knobs, "num_steps": steps})

    front = tuple(at(point, steps) for steps in (5.0, 20.0) for point in scores.front)
    replace(scores, front=front, chosen=at(scores.chosen, 20.0)).write(run / "scores.json")
    for chart in front_charts(build_leaderboard(gather([run])[0])):
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
    (chart,) = size_charts(build_leaderboard(runs))
    assert "by number of images" in chart.title
    drawn = {s.name: [(p.x, p.y) for p in s.points] for s in chart.series}
    assert drawn["gan_int_cls"] == [(5.0, 65.0), (2.5, 42.5), (0.5, 24.5)]
    assert drawn["ldm"] == [(5.0, 35.0), (2.5, 27.5), (0.5, 21.5)]


def test_without_sizes_there_is_no_such_chart(tmp_path):
    assert size_charts(build_leaderboard([read_run(write_run(tmp_path, "diffusion/ldm", 0))])) == []


def test_every_chart_is_a_page_for_a_tracker_also_those_of_one_title(tmp_path):
    points = [{"objects": n, "value": 0.5, "ci_low": 0.4, "ci_high": 0.6, "n": 48} for n in (1, 2)]
    runs = [
        rewritten(write_run(tmp_path, model, 0), lambda scores: scores.update(atomicity=points))
        for model in ("diffusion/ldm", "gan/gan_int_cls", "autoregressive/vqgan_gpt")
    ]
    for run, grader in zip(runs[1:], ("shapes-grader-v2@32", "shapes-grader-v1@64"), strict=True):
        text = (run / "scores.json").read_text().replace("shapes-grader-v1@32", grader)
        (run / "scores.json").write_text(text)
    names = [name for name in chart_pages(analyse(*gather(runs))) if name.startswith("All right")]
    assert names == [
        "All right by number of objects (shapes-grader-v1) (1)",
        "All right by number of objects (shapes-grader-v1) (2)",
        "All right by number of objects (shapes-grader-v2)",
    ]
