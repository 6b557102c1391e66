"""Curves of a row with several training seeds: means over all of them, not the first alone."""

import numpy as np
import pytest
from run_folders import KEYS, rewritten, write_run
from scipy.stats import t

from t2ibench.core.errors import RunError
from t2ibench.reporting import analyse, gather, read_run, write_results
from t2ibench.reporting.render.charts import atomicity_charts, front_charts, size_charts
from t2ibench.reporting.render.content import Content
from t2ibench.reporting.render.json_document import document
from t2ibench.reporting.statistics.curves import atomicity_curves, knob_front, size_curves

MODEL = "diffusion/ldm"
SHARES = ((0.9, 0.5, 0.2), (0.7, 0.4, 0.1), (0.8, 0.3, 0.3))


def objects(shares):
    return [
        {"objects": n, "value": v, "ci_low": v - 0.05, "ci_high": v + 0.05, "n": 32}
        for n, v in enumerate(shares, 1)
    ]


def differing(scores, seed):
    """Gives each seed numbers of its own wherever a curve is drawn."""
    scores["atomicity"] = objects(SHARES[seed])
    scores["size_curves"] = {
        KEYS["fd"]: [{"n": 32, "value": 90.0 + seed, "sd": 3.0 + seed},
                     {"n": 96, "value": 60.0 + 3 * seed, "sd": 0.0}]
    }  # fmt: skip
    for point in scores["front"]:
        for key in (KEYS["fd"], KEYS["clip_score"]):
            score = point["scores"][key]
            score["value"] = (50.0 if key == KEYS["fd"] else 20.0) + point["value"] + 3 * seed
            score["ci_low"], score["ci_high"] = score["value"] - 1, score["value"] + 1
    scores["reference"]["ceiling"][KEYS["fd"]]["value"] = 30.0 + 3 * seed
    scores["cost"]["frozen_flops"] = {"latents": 1e11 * (1 + seed)}


@pytest.fixture(scope="module")
def replicated(tmp_path_factory):
    """Three seeds that differ in every curve, and another model with one."""
    root = tmp_path_factory.mktemp("seeds")
    for seed in range(3):
        rewritten(write_run(root, MODEL, seed), lambda s, seed=seed: differing(s, seed))
    write_run(root, "gan/gan_int_cls", 0)
    return analyse(*gather([root]))


@pytest.fixture
def group(replicated):
    return next(g for g in replicated.leaderboard.groups if g.label == "ldm")


def test_a_front_is_the_mean_over_seeds(replicated, group):
    front = knob_front(group)
    assert [point.value for point in front] == [1.0, 2.0, 3.0, 5.0]
    assert front[0].scores[KEYS["fd"]].value == pytest.approx(50 + 1 + 3)
    assert front[0].scores[KEYS["fd"]].basis == "training seeds"
    (chart, *_) = front_charts(replicated.leaderboard)
    drawn = next(s for s in chart.series if s.name == "ldm")
    assert [p.y for p in drawn.points] == pytest.approx([54, 55, 56, 58])
    summary = next(f for f in replicated.knob_fronts if f.x_key == KEYS["clip_score"])
    (gap,) = summary.gaps
    assert summary.reference[0] <= 24 and gap[0] == "ldm"


def test_a_place_that_one_seed_lacks_is_no_mean(tmp_path):
    runs = [write_run(tmp_path, MODEL, seed) for seed in (0, 1)]
    rewritten(runs[1], lambda scores: scores["front"].pop(1))
    (group,) = analyse(*gather(runs)).leaderboard.groups
    assert [point.value for point in knob_front(group)] == [1.0, 3.0, 5.0]


def test_distances_by_size_are_means_over_seeds(replicated, group):
    few, most = size_curves(group)[KEYS["fd"]]
    assert (few.n, few.value, most.value) == (32, 91.0, 63.0)
    assert few.sd == pytest.approx(np.sqrt((9 + 16 + 25) / 3))
    (chart,) = size_charts(replicated.leaderboard)
    assert [point.y for point in chart.series[0].points] == [91.0, 63.0]


def test_ceilings_and_parts_are_means_over_seeds(replicated, group):
    row = next(r for r in replicated.leaderboard.references if r.label.startswith("First stage"))
    assert row.scores[KEYS["fd"]].value == pytest.approx(33.0)
    assert row.scores[KEYS["fd"]].seeds == 3
    assert group.encoding_flops == pytest.approx(2e11)


def test_a_first_stage_that_seeds_share_is_one_measurement(leaderboard):
    row = next(r for r in leaderboard.references if r.label == "First stage of ldm")
    assert (row.scores[KEYS["fd"]].value, row.scores[KEYS["fd"]].basis) == (30.0, "samples")


def test_accuracy_by_objects_has_the_interval_over_seeds(replicated, group):
    (curve,) = atomicity_curves(group).values()
    assert [(p.objects, p.n) for p in curve] == [(1, 96), (2, 96), (3, 96)]
    values = np.array(SHARES)
    half = t.ppf(0.975, 2) * values.std(0, ddof=1) / np.sqrt(3)
    assert [p.score.value for p in curve] == pytest.approx(values.mean(0))
    assert [p.score.high for p in curve] == pytest.approx(values.mean(0) + half)
    (chart,) = atomicity_charts(replicated.leaderboard)
    (series,) = chart.series
    assert [p.y for p in series.points] == pytest.approx(100 * values.mean(0))
    model = next(m for m in document(Content(replicated))["models"] if m["label"] == "ldm")
    assert [p["objects"] for p in model["atomicity"][KEYS["grader_exact"]]] == [1, 2, 3]


def test_the_page_and_the_figures_show_accuracy_by_objects(replicated, tmp_path):
    files = write_results(replicated, tmp_path, "t")
    page = (tmp_path / "leaderboard.html").read_text("utf-8")
    assert "<h2>Everything right, by number of objects</h2>" in page
    assert "ldm: 80 % at 1, 20 % at 3" in page
    assert any("all-right-by-number-of-objects" in file.name for file in files)
    assert "Of several trainings of a model the first seed&#x27;s." in page


@pytest.mark.parametrize("shares", [(), (0.9,)])
def test_one_number_of_objects_is_no_curve(tmp_path, shares):
    run = write_run(tmp_path, MODEL, 0)
    rewritten(run, lambda scores: scores.update(atomicity=objects(shares)))
    found = analyse(*gather([run]))
    assert atomicity_charts(found.leaderboard) == []


def test_shares_of_other_prompts_are_in_another_chart(tmp_path):
    runs = [write_run(tmp_path, MODEL, 0), write_run(tmp_path, "gan/gan_int_cls", 0)]
    other = KEYS["grader_exact"].replace("1a2b3c4d", "99999999")

    def elsewhere(scores):
        scores["atomicity"] = objects((0.5, 0.4))
        scored = scores["chosen"]["scores"]
        scored[other] = scored.pop(KEYS["grader_exact"]) | {"key": other}

    rewritten(runs[0], lambda scores: scores.update(atomicity=objects((0.9, 0.8))))
    rewritten(runs[1], elsewhere)
    charts = atomicity_charts(analyse(*gather(runs)).leaderboard)
    assert [[s.name for s in chart.series] for chart in charts] == [["ldm"], ["gan_int_cls"]]


ENDLESS = {"objects": float("inf"), "value": 1, "ci_low": 1, "ci_high": 1, "n": 1}


@pytest.mark.parametrize("points", [[{"objects": 1}], [{"objects": "many"}], [7], [ENDLESS]])
def test_a_malformed_curve_is_named(tmp_path, points):
    run = rewritten(write_run(tmp_path, MODEL, 0), lambda scores: scores.update(atomicity=points))
    with pytest.raises(RunError, match=r"scores\.json lacks or misplaces"):
        read_run(run)
