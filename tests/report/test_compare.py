import numpy as np
import pytest
from run_folders import KEYS, write_run
from scipy.stats import ttest_ind

from t2ibench.metrics.bootstrap import paired_difference
from t2ibench.report.compare import (
    MetricDifference,
    compare,
    compare_all,
    configuration_difference,
    holm,
)
from t2ibench.report.folders import read_runs
from t2ibench.report.formats import comparison_text
from t2ibench.report.tables import group_runs, leaderboard


def groups_of(runs):
    return {group.label: group for group in group_runs(read_runs(runs))}


def test_means_are_compared_prompt_by_prompt(study):
    groups = groups_of(study)
    key = KEYS["clip_score"]
    (found,) = compare(groups["vqgan_gpt"], groups["gan_int_cls"], [key]).differences
    a, b = (groups[n].runs[0].image_values() for n in ("vqgan_gpt", "gan_int_cls"))
    expected = paired_difference(a.columns[key], b.columns[key], a.keys)
    assert found.method == "paired by prompt"
    assert (found.difference, found.low, found.high) == expected[:3]
    assert found.winner("vqgan_gpt", "gan_int_cls") == "vqgan_gpt"


def test_distances_are_compared_by_their_intervals(study):
    groups = groups_of(study)
    (found,) = compare(groups["vqgan_gpt"], groups["gan_int_cls"], [KEYS["fd"]]).differences
    assert found.method == "intervals"
    assert found.high - found.low == pytest.approx(2 * np.hypot(3.0, 3.0))
    assert found.winner("vqgan_gpt", "gan_int_cls") == "vqgan_gpt", "lower is better"


def test_several_seeds_use_welch(tmp_path):
    runs = [write_run(tmp_path, "diffusion/ldm", s) for s in range(3)]
    runs += [write_run(tmp_path, "gan/gan_int_cls", s) for s in range(4)]
    groups = groups_of(runs)
    key = KEYS["grader_exact"]
    comparison = compare(groups["ldm"], groups["gan_int_cls"], [key])
    (found,) = comparison.differences
    a, b = (
        [r.scores.chosen.scores[key].value for r in groups[n].runs] for n in ("ldm", "gan_int_cls")
    )
    expected = ttest_ind(a, b, equal_var=False)
    interval = expected.confidence_interval()
    assert found.p_value == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))
    assert comparison.caveat == ""


def test_one_seed_carries_its_caveat(study):
    groups = groups_of(study)
    caveat = compare(groups["ldm"], groups["gan_int_cls"], [KEYS["fd"]]).caveat
    assert "gan_int_cls 1 training seed:" in caveat and "not the families" in caveat


def test_equal_models_are_not_distinguishable(tmp_path):
    first = write_run(tmp_path / "a", "diffusion/ldm", 0)
    second = write_run(tmp_path / "b", "diffusion/ldm", 0, config={"lr": 1})
    (comparison,) = compare_all(leaderboard(read_runs([first, second])))
    verdicts = {d.winner(comparison.first, comparison.second) for d in comparison.differences}
    assert verdicts == {"not distinguishable"}
    assert comparison.configuration == (("lr", "–", "1"),)
    assert "not distinguishable" in comparison_text([comparison])


def test_holm_matches_its_definition():
    raw = [0.01, 0.04, 0.03, 0.005]
    made = [MetricDifference(str(p), 0, 0, 0, 0, 0, p, "intervals") for p in raw]
    assert [d.adjusted for d in holm(made)] == pytest.approx([0.03, 0.06, 0.06, 0.02])


def test_different_prompts_are_not_paired(tmp_path):
    runs = [write_run(tmp_path, m, 0) for m in ("diffusion/ldm", "gan/gan_int_cls")]
    values = runs[0] / "samples" / "chosen" / "values.csv"
    values.write_text(values.read_text().replace("k5,", "other,"))
    groups = groups_of(runs)
    (found,) = compare(groups["ldm"], groups["gan_int_cls"], [KEYS["clip_score"]]).differences
    assert found.method == "intervals"


def test_configuration_differences_are_dotted_and_leave_out_seeds():
    first = {"seed": 0, "paths": {"runs": "a"}, "model": {"lr": 1, "net": {"width": 32}}}
    second = {
        "seed": 1,
        "paths": {"runs": "b"},
        "model": {"lr": 1, "net": {"width": 64}},
        "x": None,
    }
    assert configuration_difference(first, second) == [
        ("model.net.width", "32", "64"),
        ("x", "–", "None"),
    ]
